//! All collectives, all kinds of tensors, one to three ranks.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod cluster;

use std::sync::Arc;

use c10d::{Backend, GroupError, MemoryStore, ProcessGroup};
use tch::{Device, Kind, Tensor};

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(&tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

#[test]
fn all_reduce_sums_every_kind_in_every_world() {
    for world in 1..=3_u32 {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
            let expected = f64::from((1..=world).sum::<u32>());
            let results = cluster::run(world, |group| {
                let tensor = Tensor::full([1000], i64::from(group.rank()) + 1, (kind, Device::Cpu));
                group.all_reduce_sum(&tensor).unwrap();
                assert_eq!(group.collectives(), 1);
                values(&tensor)
            });
            for result in results {
                assert_eq!(result, vec![expected; 1000], "{kind:?} in a world of {world}");
            }
        }
    }
}

#[test]
fn sums_are_scattered_and_what_follows_from_them_is_gathered() {
    // Fewer elements than members, more than one message for a part, and parts of unequal length.
    for world in 1..=3_u32 {
        for elements in [1_i64, 2, 1_000, 1_200_001] {
            let results = cluster::run(world, |group| {
                let rank = i64::from(group.rank());
                let sums = Tensor::arange(elements, (Kind::Int64, Device::Cpu)) * (rank + 1);
                let result = Tensor::zeros([elements], (Kind::Float, Device::Cpu));
                // The first third by itself; both are gathered at once.
                let pieces = [(0, elements / 3), (elements / 3, elements - elements / 3)];
                let mut own = Vec::new();
                for (start, length) in pieces {
                    let sums = sums.narrow(0, start, length);
                    let part = group.reduce_scatter_sum(&sums).unwrap();
                    let length = part.end - part.start;
                    let rounded = sums.narrow(0, part.start, length).to_kind(Kind::Float) + 0.5;
                    result.narrow(0, start + part.start, length).copy_(&rounded);
                    own.push(start + part.start..start + part.end);
                }
                group.all_gather(&pieces.map(|(start, length)| result.narrow(0, start, length))).unwrap();
                (own, result)
            });
            let factor = i64::from((1..=world).sum::<u32>());
            let expected = (Tensor::arange(elements, (Kind::Int64, Device::Cpu)) * factor).to_kind(Kind::Float) + 0.5;
            let mut next = [0, elements / 3];
            for (own, result) in results {
                for (next, own) in next.iter_mut().zip(own) {
                    assert_eq!(own.start, *next, "parts are one after the other");
                    *next = own.end;
                }
                assert!(result.equal(&expected), "{elements} elements in a world of {world}");
            }
            assert_eq!(next, [elements / 3, elements]);
        }
    }
}

#[test]
fn only_flat_tensors_of_integers_are_scattered() {
    let results = cluster::run(2, |group| {
        let square = group.reduce_scatter_sum(&Tensor::zeros([2, 2], (Kind::Int64, Device::Cpu)));
        let flags = group.all_gather(&[Tensor::zeros([2], (Kind::Bool, Device::Cpu))]);
        let floats = group.reduce_scatter_sum(&Tensor::zeros([2], (Kind::Float, Device::Cpu)));
        (square.is_err(), flags.is_err(), floats.is_err(), group.collectives())
    });
    assert_eq!(results, vec![(true, true, true, 0); 2]);
}

/// libtorch's flight recorder ends the process now and then when groups of one process start together; it must be off.
#[test]
fn groups_of_one_process_may_start_together() {
    assert!(std::env::var_os("TORCH_FR_BUFFER_SIZE").is_some(), "the flight recorder was not turned off");
    for _ in 0..30 {
        assert_eq!(cluster::run(3, |group| group.all_gather_i64(1).unwrap()), vec![vec![1; 3]; 3]);
    }
}

#[test]
fn int64_sums_are_exact_beyond_what_a_double_holds() {
    let results = cluster::run(2, |group| {
        let tensor = Tensor::from_slice(&[(1_i64 << 60) + i64::from(group.rank()) + 1]);
        group.all_reduce_sum(&tensor).unwrap();
        tensor.int64_value(&[0])
    });
    assert_eq!(results, vec![(1 << 61) + 3; 2]);
}

#[test]
fn non_contiguous_tensors_are_reduced_where_they_are() {
    let results = cluster::run(2, |group| {
        let base = Tensor::arange(6, (Kind::Float, Device::Cpu)).reshape([2, 3]) * (f64::from(group.rank()) + 1.0);
        let columns = base.transpose(0, 1);
        group.all_reduce_sum(&columns).unwrap();
        values(&base)
    });
    for result in results {
        assert_eq!(result, vec![0.0, 3.0, 6.0, 9.0, 12.0, 15.0]);
    }
}

#[test]
fn broadcast_reaches_every_rank_and_works_on_parameters() {
    for root in 0..3 {
        let results = cluster::run(3, |group| {
            let tensor =
                Tensor::full([5, 2], i64::from(group.rank()), (Kind::Float, Device::Cpu)).set_requires_grad(true);
            group.broadcast(&tensor, root).unwrap();
            assert!(tensor.requires_grad() && tensor.is_leaf());
            values(&tensor)
        });
        for result in results {
            assert_eq!(result, vec![f64::from(root); 10]);
        }
    }
}

#[test]
fn all_gather_is_in_rank_order_and_negative_values_survive() {
    for world in 1..=3_u32 {
        let results = cluster::run(world, |group| {
            group.barrier().unwrap();
            group.all_gather_i64(-1 - i64::from(group.rank()) * i64::from(i32::MAX)).unwrap()
        });
        let expected: Vec<i64> = (0..i64::from(world)).map(|rank| -1 - rank * i64::from(i32::MAX)).collect();
        assert!(results.iter().all(|result| *result == expected), "{results:?}");
    }
}

#[test]
fn solo_is_the_identity_and_counts() {
    let group = ProcessGroup::new(Backend::Solo, Arc::new(MemoryStore::new()), cluster::options(0, 1)).unwrap();
    let tensor = Tensor::from_slice(&[1.5_f32, -2.0]);
    group.all_reduce_sum(&tensor).unwrap();
    group.broadcast(&tensor, 0).unwrap();
    group.barrier().unwrap();
    assert_eq!(group.all_gather_i64(7).unwrap(), vec![7]);
    assert_eq!(values(&tensor), vec![1.5, -2.0]);
    assert_eq!(group.collectives(), 4);
    group.abort_handle().abort();
    assert!(matches!(group.barrier(), Err(GroupError::Aborted { .. })));
}

#[test]
fn mistakes_are_refused_before_anything_is_sent() {
    let store = Arc::new(MemoryStore::new());
    let solo = |rank, world| ProcessGroup::new(Backend::Solo, store.clone(), cluster::options(rank, world));
    assert!(matches!(solo(0, 2), Err(GroupError::Argument(_))));
    assert!(matches!(solo(1, 1), Err(GroupError::Argument(_))));
    let group = solo(0, 1).unwrap();
    assert!(matches!(group.all_reduce_sum(&Tensor::from_slice(&[1_i32])), Err(GroupError::Argument(_))));
    assert!(matches!(group.broadcast(&Tensor::from_slice(&[1_i64]), 1), Err(GroupError::Argument(_))));
    assert_eq!(group.collectives(), 0);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn nccl_without_the_feature_says_so() {
    let group = ProcessGroup::new(Backend::Nccl { device: 0 }, Arc::new(MemoryStore::new()), cluster::options(0, 1));
    let message = group.unwrap_err().to_string();
    assert!(message.contains("nccl") && message.contains("`cuda`"), "{message}");
}

#[cfg(feature = "cuda")]
#[test]
fn nccl_without_such_a_device_says_so() {
    let device = c10d::runtime_report().cuda_devices as usize; // one past the last
    let group = ProcessGroup::new(Backend::Nccl { device }, Arc::new(MemoryStore::new()), cluster::options(0, 1));
    let message = group.unwrap_err().to_string();
    assert!(message.contains("nccl") && message.contains(&format!("CUDA device {device} ")), "{message}");
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA device"]
fn nccl_reduces_broadcasts_gathers_and_aborts() {
    let backend = Backend::Nccl { device: 0 };
    let group = ProcessGroup::new(backend, Arc::new(MemoryStore::new()), cluster::options(0, 1)).unwrap();
    assert_eq!(group.device(), Device::Cuda(0));
    for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
        let tensor = Tensor::full([10], 3, (kind, group.device()));
        group.all_reduce_sum(&tensor).unwrap();
        group.broadcast(&tensor, 0).unwrap();
        assert_eq!(values(&tensor), vec![3.0; 10]);
    }
    let sums = Tensor::arange(1000, (Kind::Int64, group.device()));
    assert_eq!(group.reduce_scatter_sum(&sums).unwrap(), 0..1000);
    group.all_gather(&[sums]).unwrap();
    assert_eq!(group.all_gather_i64(5).unwrap(), vec![5]);
    // What is in main memory goes through the device.
    let elsewhere = Tensor::from_slice(&[7_i64, 8]);
    group.all_reduce_sum(&elsewhere).unwrap();
    assert_eq!(values(&elsewhere), vec![7.0, 8.0]);
    group.abort_handle().abort();
    assert!(matches!(group.barrier(), Err(GroupError::Aborted { .. })));
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA device"]
fn gloo_reaches_tensors_of_a_device() {
    let results = cluster::run(3, |group| {
        let device = Device::Cuda(0);
        let (rank, world) = (i64::from(group.rank()), 3);
        let sum = Tensor::full([5], rank + 1, (Kind::Int64, device));
        group.all_reduce_sum(&sum).unwrap();
        let mut sent = Tensor::full([2, 2], rank, (Kind::Float, device)).set_requires_grad(true);
        group.broadcast(&sent, 2).unwrap();
        assert!(sent.requires_grad() && sent.is_leaf() && sent.device() == device);
        sent = sent.detach();
        let parts = Tensor::arange(1001, (Kind::Int64, device));
        let own = group.reduce_scatter_sum(&parts).unwrap();
        let gathered = Tensor::zeros([1001], (Kind::Float, device));
        let part = parts.narrow(0, own.start, own.end - own.start).to_kind(Kind::Float);
        gathered.narrow(0, own.start, own.end - own.start).copy_(&part);
        group.all_gather(&[gathered.shallow_clone()]).unwrap();
        let expected = Tensor::arange(1001, (Kind::Float, device)) * f64::from(world);
        assert!(gathered.equal(&expected));
        (values(&sum), values(&sent))
    });
    assert!(results.iter().all(|result| *result == (vec![6.0; 5], vec![2.0; 4])), "{results:?}");
}
