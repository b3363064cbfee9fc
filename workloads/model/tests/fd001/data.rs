//! NASA C-MAPSS FD001 from a folder, as windows. Only what the trainer's test and example need.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

pub const WINDOW: usize = 30;
/// Columns kept of the 26: those that vary in FD001.
pub const COLUMNS: [usize; 16] = [2, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18, 19, 21, 24, 25];
/// Engines held out for validation, by number: the first 20 of numpy's
/// `default_rng(42).permutation(1..=100)`, the split of the Python stack this one is compared with
/// (its LSTM: validation RMSE 13.54).
pub const HELD: [usize; 20] = [3, 5, 19, 22, 25, 26, 28, 34, 43, 51, 52, 53, 57, 60, 62, 72, 82, 93, 98, 100];

pub struct Engine {
    /// `cycles x 16`.
    pub rows: Vec<f32>,
}

#[derive(Default)]
pub struct Set {
    pub inputs: Vec<f32>,
    /// Cycles left after the window's last row, not capped.
    pub targets: Vec<f32>,
    /// Index of the engine of every window.
    pub engines: Vec<usize>,
}

/// The folder with the data: beside the project, or where `CMAPSS_DIR` says.
pub fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/cmapss");
    let folder = std::env::var_os("CMAPSS_DIR").map_or(beside, PathBuf::from);
    folder.join("train_FD001.txt.gz").is_file().then_some(folder)
}

pub fn engines(path: &Path) -> Result<Vec<Engine>, Box<dyn Error>> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut text)?;
    let mut out: Vec<Engine> = Vec::new();
    for line in text.lines() {
        let numbers: Vec<f32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        if numbers[1] == 1.0 {
            out.push(Engine { rows: Vec::new() });
        }
        let engine = out.last_mut().ok_or("the first line is not cycle 1")?;
        engine.rows.extend(COLUMNS.map(|c| numbers[c]));
    }
    Ok(out)
}

/// Every window of engines that ran to failure.
pub fn windows(engines: &[Engine]) -> Set {
    let features = COLUMNS.len();
    let mut out = Set::default();
    for (index, engine) in engines.iter().enumerate() {
        let cycles = engine.rows.len() / features;
        for end in WINDOW..=cycles {
            let rows = &engine.rows[(end - WINDOW) * features..end * features];
            out.inputs.extend_from_slice(rows);
            out.targets.push((cycles - end) as f32);
            out.engines.push(index);
        }
    }
    out
}

/// The last window of every test engine with its true remaining cycles.
pub fn test(folder: &Path) -> Result<Set, Box<dyn Error>> {
    let engines = engines(&folder.join("test_FD001.txt.gz"))?;
    let truth = std::fs::read_to_string(folder.join("RUL_FD001.txt"))?;
    let mut out = Set::default();
    for (index, (engine, rul)) in engines.iter().zip(truth.split_whitespace()).enumerate() {
        let from = engine.rows.len() - WINDOW * COLUMNS.len();
        out.inputs.extend_from_slice(&engine.rows[from..]);
        out.targets.push(rul.parse()?);
        out.engines.push(index);
    }
    Ok(out)
}

pub fn rmse(predictions: &[f32], targets: &[f32], cap: f32) -> f64 {
    let squares: f64 = predictions.iter().zip(targets).map(|(p, t)| f64::from(p - t.min(cap)).powi(2)).sum();
    (squares / predictions.len() as f64).sqrt()
}
