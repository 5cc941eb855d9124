//! Safetensors in and out of memory. Written as float32; float16, bfloat16 and float64 are accepted.

use crate::error::ModelError;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};
use types::Digest;

/// Every tensor of a safetensors file, sorted by name, on the processor: floating-point ones as float32, integers as
/// int64.
pub fn read(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, ModelError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| ModelError::Safetensors(error.to_string()))?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, view) in file.tensors() {
        let tensor = tensor(&view).map_err(|why| ModelError::Safetensors(format!("{name}: {why}")))?;
        tensors.push((name, tensor));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

fn tensor(view: &TensorView<'_>) -> Result<Tensor, String> {
    let (kind, target) = match view.dtype() {
        Dtype::F32 => (Kind::Float, Kind::Float),
        Dtype::F16 => (Kind::Half, Kind::Float),
        Dtype::BF16 => (Kind::BFloat16, Kind::Float),
        Dtype::F64 => (Kind::Double, Kind::Float),
        Dtype::I64 => (Kind::Int64, Kind::Int64),
        Dtype::I32 => (Kind::Int, Kind::Int64),
        Dtype::BOOL => (Kind::Bool, Kind::Bool),
        other => return Err(format!("elements of type {other:?} are not supported")),
    };
    let size: Vec<i64> = view.shape().iter().map(|&extent| extent as i64).collect();
    let tensor = Tensor::f_from_data_size(view.data(), &size, kind).map_err(|error| error.to_string())?;
    Ok(tensor.to_kind(target))
}

/// A safetensors file with the metadata that `transformers` asks for. Tensors may be on any device; floating-point ones
/// are written as float32, int64 ones as they are.
pub fn write(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, ModelError> {
    let mut data = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = if tensor.kind() == Kind::Int64 { Dtype::I64 } else { Dtype::F32 };
        let shape: Vec<usize> = tensor.size().iter().map(|&extent| extent as usize).collect();
        data.push((name.as_str(), dtype, shape, raw(tensor)?));
    }
    let mut views = Vec::with_capacity(data.len());
    for (name, dtype, shape, bytes) in &data {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|error| ModelError::Safetensors(format!("{name}: {error}")))?;
        views.push((*name, view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| ModelError::Safetensors(error.to_string()))
}

/// The SHA-256 of the tensors' little-endian float32 bytes one after the other, in the given order. Over
/// [`crate::Model::parameters`], which are in name order, this is a run's `weights_digest`.
pub fn digest<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Digest, ModelError> {
    let mut hash = Sha256::new();
    for tensor in tensors {
        hash.update(raw(tensor)?);
    }
    Ok(Digest(hash.finalize().into()))
}

/// Little-endian bytes: int64 as they are, everything else as float32.
fn raw(tensor: &Tensor) -> Result<Vec<u8>, ModelError> {
    let kind = if tensor.kind() == Kind::Int64 { Kind::Int64 } else { Kind::Float };
    let tensor = tensor.detach().f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

#[cfg(not(target_endian = "little"))]
compile_error!("tensors are written in the machine's byte order, which safetensors wants to be little-endian");
