//! Bytes and integers into tensors that travel, and out of them.

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

/// Values as a flat tensor on the device. On the way to a GPU they lie in pinned memory, so that nobody waits for the copy,
/// nor for what the GPU still has to do.
pub(crate) fn sent<T: Element>(values: &[T], device: Device) -> Tensor {
    let tensor = Tensor::from_slice(values);
    if device.is_cuda() {
        let kind = tensor.kind();
        return tensor.pin_memory(device).to_device_(device, kind, true, false);
    }
    tensor
}

/// Bytes as an int64 tensor, which every backend can broadcast.
pub(crate) fn pack_bytes(bytes: &[u8], device: Device) -> Tensor {
    let words: Vec<i64> = bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            i64::from_le_bytes(word)
        })
        .collect();
    Tensor::from_slice(&words).to_device(device)
}

/// The first `length` bytes of what [`pack_bytes`] made.
pub(crate) fn unpack_bytes(packed: &Tensor, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = to_i64(packed).into_iter().flat_map(i64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// An int64 tensor's elements, from any device.
pub(crate) fn to_i64(tensor: &Tensor) -> Vec<i64> {
    let mut values = vec![0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

/// The elements as float64.
pub(crate) fn to_f64(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(Device::Cpu).to_kind(Kind::Double).contiguous().view([-1]);
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.copy_data(&mut values, count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_packing() {
        for length in [0usize, 1, 7, 8, 9, 1000] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37 % 251) as u8).collect();
            assert_eq!(unpack_bytes(&pack_bytes(&bytes, Device::Cpu), length), bytes);
        }
    }
}
