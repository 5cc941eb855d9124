//! Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): y = W x + s · B A x, where W stays as it is. B starts at 0, so that
//! the model begins as the one without.

use crate::heads::dropout;
use config::LoraConfig;
use tch::{Device, Kind, Tensor};

/// PEFT's name of A beside the matrix `PREFIX.weight`. `[rank, inputs]`
pub(crate) fn down(prefix: &str) -> String {
    format!("{prefix}.lora_A.weight")
}

/// PEFT's name of B. `[outputs, rank]`
pub(crate) fn up(prefix: &str) -> String {
    format!("{prefix}.lora_B.weight")
}

/// What is added to the product with a matrix. Tensors are shared with the parameter list.
pub(crate) struct Adapter {
    down: Tensor,
    up: Tensor,
    scale: f64,
    dropout: f64,
}

impl Adapter {
    pub fn new(down: Tensor, up: Tensor, lora: &LoraConfig) -> Self {
        Self { down, up, scale: lora.scale(), dropout: lora.dropout }
    }

    /// `[…, inputs]` to `[…, outputs]`.
    pub fn forward(&self, input: &Tensor, train: bool) -> Tensor {
        let narrow = kernels::linear(&dropout(input, self.dropout, train), &self.down, None);
        kernels::linear(&narrow, &self.up, None) * self.scale
    }

    pub fn leaves(&self) -> [&Tensor; 2] {
        [&self.down, &self.up]
    }

    pub fn shallow_clone(&self) -> Self {
        let (down, up) = (self.down.shallow_clone(), self.up.shallow_clone());
        Self { down, up, scale: self.scale, dropout: self.dropout }
    }
}

/// W + s · B A, in main memory. It is summed here, in float64 and one order, and not by libtorch, so that its bits do not
/// depend on the number of threads.
pub(crate) fn merged(weight: &Tensor, down: &Tensor, up: &Tensor, scale: f64) -> Tensor {
    let (rank, inputs) = (down.size()[0] as usize, down.size()[1] as usize);
    let [mut values, down, up] = [weight, down, up].map(numbers);
    let mut sums = vec![0.0_f64; inputs];
    for (row, factors) in values.chunks_exact_mut(inputs).zip(up.chunks_exact(rank)) {
        sums.fill(0.0);
        for (factor, inner) in factors.iter().zip(down.chunks_exact(inputs)) {
            for (sum, value) in sums.iter_mut().zip(inner) {
                *sum += f64::from(*factor) * f64::from(*value);
            }
        }
        for (value, sum) in row.iter_mut().zip(&sums) {
            *value = (f64::from(*value) + scale * sum) as f32;
        }
    }
    Tensor::from_slice(&values).view_as(weight)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    let mut values = vec![0.0_f32; flat.numel()];
    let count = values.len();
    flat.copy_data(&mut values, count);
    values
}
