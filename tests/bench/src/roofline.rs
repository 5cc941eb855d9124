//! What the machine can do at best: large float32 matrix products through libtorch, and copies in memory.
//!
//! Measured in turns with what is compared to it, on the same threads.

use anyhow::{Result, ensure};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Rows and columns of the product: three matrices of 16 MiB, more than any cache of a core.
const SIZE: i64 = 2048;
const PRODUCTS: usize = 4;
/// The same on a GPU, which small products do not fill.
const SIZE_ON_A_DEVICE: i64 = 8192;
const PRODUCTS_ON_A_DEVICE: usize = 20;
/// Float32 elements that are copied: 256 MiB.
const ELEMENTS: i64 = 64 << 20;
const COPIES: usize = 3;

/// Operations a second of one float32 product after another, on libtorch's threads.
pub fn products() -> f64 {
    products_of(SIZE, PRODUCTS, Kind::Float, Device::Cpu)
}

/// The same on this device, of numbers of this kind.
pub fn products_on(device: Device, kind: Kind) -> f64 {
    match device {
        Device::Cpu => products_of(SIZE, PRODUCTS, kind, device),
        _ => products_of(SIZE_ON_A_DEVICE, PRODUCTS_ON_A_DEVICE, kind, device),
    }
}

/// Rows and columns of a product, and how many are timed.
fn products_of(size: i64, products: usize, kind: Kind, device: Device) -> f64 {
    let matrix = || Tensor::rand([size, size], (Kind::Float, device)).to_kind(kind);
    let (left, right) = (matrix(), matrix());
    let mut product = left.matmul(&right);
    // Looked at, so that a device has done it.
    let mut used = product.double_value(&[0, 0]);
    let start = Instant::now();
    for _ in 0..products {
        product = left.matmul(&right);
    }
    used += product.double_value(&[0, 0]);
    assert!(used.is_finite(), "a sum of products of numbers below one");
    products as f64 * 2.0 * (size as f64).powi(3) / start.elapsed().as_secs_f64()
}

/// Bytes a second, read and written, on libtorch's threads.
pub fn copies() -> f64 {
    let from = Tensor::zeros([ELEMENTS], (Kind::Float, Device::Cpu));
    let mut to = from.zeros_like();
    to.copy_(&from);
    let start = Instant::now();
    for _ in 0..COPIES {
        to.copy_(&from);
    }
    COPIES as f64 * 2.0 * 4.0 * ELEMENTS as f64 / start.elapsed().as_secs_f64()
}

/// The sum of what several threads of one core each do at the same time, as workers of one thread do.
///
/// libtorch must be set to one thread.
pub fn together(threads: usize, work: fn() -> f64) -> Result<f64> {
    ensure!(tch::get_num_threads() == 1, "libtorch would use {} threads in each", tch::get_num_threads());
    let workers: Vec<_> = (0..threads).map(|_| std::thread::spawn(work)).collect();
    let done: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
    ensure!(done.iter().all(std::result::Result::is_ok), "a thread panicked");
    Ok(done.into_iter().flatten().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_do_is_added_up() {
        tch::set_num_threads(1);
        assert_eq!(together(3, || 2.0).unwrap(), 6.0);
        assert!(together(1, || panic!("as it should")).is_err());
    }
}
