//! Rows without padding: the real tokens of a batch behind one another.

use crate::network::Input;
use tch::{Device, Kind, Tensor};

/// Where the tokens of a batch are, and how they lie without padding: as one row, `[1, tokens, …]`.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Real tokens of each row.
    pub lengths: Vec<i64>,
    /// Of each token, the place in its row. `[tokens]`, int64
    pub positions: Tensor,
    /// Of each token, the place in the flat batch × length. `[tokens]`, int64; None: there is no padding.
    real: Option<Tensor>,
    /// `[batch, length]`
    size: [i64; 2],
}

impl Rows {
    /// # Panics
    /// If a mask has real tokens behind padding.
    pub fn of(input: &Input) -> Self {
        let size = input.ids.size();
        let size @ [batch, length] = [size[0], size[1]];
        let device = input.ids.device();
        let lengths = match &input.mask {
            Some(mask) => lengths(mask, length),
            None => vec![length; batch as usize],
        };
        let positions: Vec<i64> = lengths.iter().flat_map(|&length| 0..length).collect();
        let padded = lengths.iter().any(|&real| real < length);
        let real: Vec<i64> = (0..).zip(&lengths).flat_map(|(row, &real)| row * length..row * length + real).collect();
        let on_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Self { positions: on_device(&positions), real: padded.then(|| on_device(&real)), lengths, size }
    }

    /// The real ones of `[batch, length, …]`: `[1, tokens, …]`.
    pub fn without_padding(&self, padded: &Tensor) -> Tensor {
        let flat = padded.flatten(0, 1);
        let real = self.real.as_ref().map_or(flat.shallow_clone(), |real| flat.index_select(0, real));
        real.unsqueeze(0)
    }

    /// The way back, with zeros at the padding.
    pub fn with_padding(&self, tokens: &Tensor) -> Tensor {
        let flat = tokens.squeeze_dim(0);
        let padded = match &self.real {
            None => flat,
            Some(real) => {
                let mut size = flat.size();
                size[0] = self.size[0] * self.size[1];
                Tensor::zeros(&size, (flat.kind(), flat.device())).index_copy(0, real, &flat)
            }
        };
        let mut size = self.size.to_vec();
        size.extend_from_slice(&padded.size()[1..]);
        padded.view(&size[..])
    }

    /// `[batch, length]`, true = real; None: there is no padding.
    pub fn mask(&self) -> Option<Tensor> {
        let real = self.real.as_ref()?;
        let device = real.device();
        let flat = Tensor::zeros([self.size[0] * self.size[1]], (Kind::Bool, device)).index_fill(0, real, 1);
        Some(flat.view(&self.size[..]))
    }

    pub fn shallow_clone(&self) -> Self {
        Self {
            lengths: self.lengths.clone(),
            positions: self.positions.shallow_clone(),
            real: self.real.as_ref().map(Tensor::shallow_clone),
            size: self.size,
        }
    }
}

fn lengths(mask: &Tensor, length: i64) -> Vec<i64> {
    let mask = mask.to_device(Device::Cpu);
    let counts = mask.sum_dim_intlist(1, false, Kind::Int64);
    let prefix = Tensor::arange(length, (Kind::Int64, Device::Cpu)).unsqueeze(0).lt_tensor(&counts.unsqueeze(1));
    assert!(prefix.equal(&mask.to_kind(Kind::Bool)), "a mask has real tokens behind padding");
    Vec::try_from(counts).expect("one dimension of int64")
}
