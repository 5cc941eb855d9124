//! `--device`: what it may say, and what that means on this host.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Where a worker's tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// One CUDA device.
    Cuda(usize),
}

/// What `--device` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first CUDA device if this build can use one and there is one, else the CPU.
    Auto,
    /// Exactly this one.
    Exactly(Device),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Exactly(Device::Cpu)),
            "cuda" => Ok(Choice::Exactly(Device::Cuda(0))),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Ok(Choice::Exactly(Device::Cuda(index))),
                _ => Err("write auto, cpu or cuda:N".to_owned()),
            },
        }
    }
}

impl Choice {
    /// Decides without calling libtorch, so that an agent can.
    pub fn decide(self) -> Device {
        match self {
            Choice::Exactly(device) => device,
            Choice::Auto if cfg!(feature = "cuda") && Path::new("/dev/nvidiactl").exists() => Device::Cuda(0),
            Choice::Auto => Device::Cpu,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Device {
    /// libtorch's name for it, if libtorch sees it. Calls libtorch.
    pub fn open(self) -> anyhow::Result<tch::Device> {
        let Device::Cuda(index) = self else { return Ok(tch::Device::Cpu) };
        let count = tch::Cuda::device_count();
        anyhow::ensure!(
            i64::try_from(index).is_ok_and(|index| index < count),
            "there is no {self}: libtorch sees {count} CUDA devices; `worker doctor` says what is missing"
        );
        Ok(tch::Device::Cuda(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_torch_names_them() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("cpu".parse(), Ok(Choice::Exactly(Device::Cpu)));
        assert_eq!("cuda".parse(), Ok(Choice::Exactly(Device::Cuda(0))));
        let third = "cuda:3".parse::<Choice>().unwrap().decide();
        assert_eq!((third, third.to_string()), (Device::Cuda(3), "cuda:3".to_owned()));
        assert!("gpu".parse::<Choice>().is_err() && "cuda:x".parse::<Choice>().is_err());
    }
}
