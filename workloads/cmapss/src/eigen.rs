//! Eigenvalues of a small symmetric matrix, to draw from a joint normal law whose published correlations are rounded.

/// A matrix A with A Aᵀ = the nearest positive semi-definite version of `matrix` (negative eigenvalues become 0).
///
/// `matrix` is symmetric, n x n, row-major. A is returned row-major too.
pub(crate) fn square_root(matrix: &[f64], n: usize) -> Vec<f64> {
    let (values, vectors) = jacobi(matrix, n);
    let mut root = vectors;
    for row in root.chunks_exact_mut(n.max(1)) {
        for (cell, value) in row.iter_mut().zip(&values) {
            *cell *= value.max(0.0).sqrt();
        }
    }
    root
}

/// Eigenvalues, and eigenvectors as columns, by cyclic Jacobi rotations. Converges quadratically: a handful of sweeps.
fn jacobi(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    for _sweep in 0..64 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        let all: f64 = a.iter().map(|x| x * x).sum();
        if off <= all * 1e-30 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut v, n, p, q);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), v)
}

/// One rotation that makes a[p][q] zero.
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        a[k * n + p] = c * x - s * y;
        a[k * n + q] = s * x + c * y;
    }
    for k in 0..n {
        let (x, y) = (a[p * n + k], a[q * n + k]);
        a[p * n + k] = c * x - s * y;
        a[q * n + k] = s * x + c * y;
        let (x, y) = (v[k * n + p], v[k * n + q]);
        v[k * n + p] = c * x - s * y;
        v[k * n + q] = s * x + c * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn times_transposed(a: &[f64], n: usize) -> Vec<f64> {
        let mut out = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                out[i * n + j] = (0..n).map(|k| a[i * n + k] * a[j * n + k]).sum();
            }
        }
        out
    }

    #[test]
    fn root_squared_is_the_matrix() {
        let n = 12;
        let mut rng = Rng::new(2);
        let b: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
        let matrix = times_transposed(&b, n);
        let back = times_transposed(&square_root(&matrix, n), n);
        for (got, want) in back.iter().zip(&matrix) {
            assert!((got - want).abs() < 1e-11, "{got} {want}");
        }
    }

    #[test]
    fn negative_eigenvalues_are_clipped() {
        // Eigenvalues 3 and -1, vectors (1, 1) and (1, -1): the clipped matrix is 1.5 everywhere.
        let back = times_transposed(&square_root(&[1.0, 2.0, 2.0, 1.0], 2), 2);
        assert!(back.iter().all(|x| (x - 1.5).abs() < 1e-14), "{back:?}");
        // Equal diagonal: theta is 0, and its sign must not be lost.
        let (values, _) = jacobi(&[2.0, 1.0, 1.0, 2.0], 2);
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        assert!((sorted[0] - 1.0).abs() < 1e-14 && (sorted[1] - 3.0).abs() < 1e-14);
    }
}
