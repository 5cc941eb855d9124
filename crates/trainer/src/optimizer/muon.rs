//! Muon (Jordan et al. 2024, KellerJordan/modded-nanogpt): momentum whose update is brought near an orthogonal matrix by
//! Newton–Schulz iterations. No weight decay, as there.

use config::OptimizerConfig;
use tch::{Kind, Tensor};

/// The quintic's coefficients: they push singular values towards 1 fast and leave them between about 0.7 and 1.2.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);

/// m ← μ m + g;  p ← p − lr · √max(1, rows / columns) · orthogonal(g + μ m)
pub(super) fn apply(
    tensor: &mut Tensor,
    gradient: &Tensor,
    momentum: &mut Tensor,
    learning_rate: f64,
    config: &OptimizerConfig,
) {
    let _ = momentum.g_mul_scalar_(config.muon_momentum).g_add_(gradient);
    let nesterov = gradient + &*momentum * config.muon_momentum;
    let size = nesterov.size();
    let (rows, columns) = (size[0] as f64, size[1] as f64);
    let mut direction = orthogonalise(nesterov, config.muon_iterations);
    let _ = tensor.g_sub_(&direction.g_mul_scalar_(learning_rate * (rows / columns).max(1.0).sqrt()));
}

/// The nearest semi-orthogonal matrix, roughly. `matrix`: `[rows, columns]`.
fn orthogonalise(matrix: Tensor, iterations: u32) -> Tensor {
    let size = matrix.size();
    let tall = size[0] > size[1];
    let matrix = if tall { matrix.tr().contiguous() } else { matrix };
    let norm = matrix.norm().to_kind(Kind::Float);
    // A zero gradient stays zero instead of becoming NaN.
    let mut x = matrix / (norm + 1e-7);
    let (a, b, c) = COEFFICIENTS;
    for _ in 0..iterations {
        let product = x.matmul(&x.tr());
        let polynomial = &product * b + product.matmul(&product) * c;
        x = &x * a + polynomial.matmul(&x);
    }
    if tall { x.tr().contiguous() } else { x }
}
