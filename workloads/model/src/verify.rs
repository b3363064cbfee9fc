use std::path::Path;

use crate::{Error, Model};

/// How far an exported file may be from the trained model, in cycles.
pub const MAX_DIFFERENCE: f32 = 1e-3;

/// Reads `path` back the way a server does and compares it with `model` on `windows` (whole
/// windows, one after another). Returns the largest difference in cycles.
///
/// # Errors
/// [`Error::Disagrees`] beyond [`MAX_DIFFERENCE`] or at a prediction that is not a number,
/// [`Error::Invalid`] when no window is given; those of reading the file.
pub fn verify_export(path: &Path, model: &Model, windows: &[f32]) -> Result<f32, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let served = Model::from_onnx(&bytes)?;
    let (a, b) = (model.predict_all(windows)?, served.predict_all(windows)?);
    if a.is_empty() {
        return Err(Error::invalid("verification", "it needs at least one window"));
    }
    let mut worst = 0.0f32;
    for (window, (x, y)) in a.iter().zip(&b).enumerate() {
        let difference = (x - y).abs();
        if difference.is_nan() || difference > MAX_DIFFERENCE {
            return Err(Error::Disagrees { path: path.to_path_buf(), window, difference, allowed: MAX_DIFFERENCE });
        }
        worst = worst.max(difference);
    }
    Ok(worst)
}
