//! DDP's Reducer between ranks, and the fused optimizer step against its definition.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod cluster;

use c10d::{Backend, Compression, MemoryStore, ProcessGroup, Reducer};
use kernels::{AdamW, fused_adamw};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(&tensor.reshape([-1])).unwrap()
}

fn ramp(rows: i64, columns: i64, factor: f64) -> Tensor {
    (Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)).reshape([rows, columns]) * factor).sin()
}

/// A two-layer network's loss on data that depends on rank and slot.
fn loss(parameters: &[Tensor], rank: u32, slot: u32) -> Tensor {
    let input = ramp(4, 40, 0.1 + f64::from(rank) + 0.01 * f64::from(slot));
    (input.matmul(&parameters[0]).tanh().matmul(&parameters[1]) + &parameters[2]).square().mean(Kind::Float)
}

fn parameters() -> Vec<Tensor> {
    [ramp(40, 50, 0.3), ramp(50, 30, 0.7), ramp(1, 30, 0.9)].into_iter().map(|t| t.set_requires_grad(true)).collect()
}

/// The average over ranks of the sums over slots, without any group.
fn expected(world: u32, slots: u32) -> Vec<Vec<f32>> {
    let parameters = parameters();
    for rank in 0..world {
        for slot in 0..slots {
            (loss(&parameters, rank, slot) / f64::from(world)).backward();
        }
    }
    parameters.iter().map(|parameter| values(&parameter.grad())).collect()
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], relative: f32) {
    for (found, expected) in found.iter().zip(expected) {
        let scale = expected.iter().fold(0_f32, |most, value| most.max(value.abs()));
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= relative * scale, "{a} against {b}");
        }
    }
}

#[test]
fn gradients_are_the_average_and_equal_on_all_ranks() {
    for (compression, relative) in [(Compression::None, 1e-5), (Compression::Bf16, 2e-2)] {
        for world in [2, 3] {
            let results = cluster::run(world, |group| {
                let parameters = parameters();
                let own: Vec<Tensor> = parameters.iter().map(Tensor::shallow_clone).collect();
                let reducer = Reducer::new(&group, &own, 4096, compression).unwrap();
                let (mut steps, mut buckets) = (Vec::new(), Vec::new());
                // Buckets are rebuilt after the first step: several steps, or that path is not taken.
                for _ in 0..3 {
                    for parameter in &parameters {
                        let mut gradient = parameter.grad();
                        if gradient.defined() {
                            let _ = gradient.zero_();
                        }
                    }
                    for slot in 0..2 {
                        loss(&parameters, group.rank(), slot).backward(); // local only
                    }
                    let last = loss(&parameters, group.rank(), 2);
                    reducer.prepare_for_backward(&[last.shallow_clone()]).unwrap();
                    let before = group.collectives();
                    last.backward();
                    buckets.push(group.collectives() - before);
                    steps.push(parameters.iter().map(|p| values(&p.grad())).collect::<Vec<_>>());
                }
                (steps, buckets)
            });
            let expected = expected(world, 3);
            // Two of the three parameters fill a bucket of 4 KiB each.
            assert!(results[0].1.iter().all(|&buckets| buckets >= 2), "buckets are counted: {:?}", results[0].1);
            for result in &results {
                assert_eq!(result, &results[0], "all ranks hold the same bits, and count alike");
                result.0.iter().for_each(|step| assert_close(step, &expected, relative));
            }
        }
    }
}

#[test]
fn gradients_are_parts_of_the_buckets_and_outlive_their_reducer() {
    let results = cluster::run(2, |group| {
        let parameters = parameters();
        let own: Vec<Tensor> = parameters.iter().map(Tensor::shallow_clone).collect();
        let reduced = |reducer: &Reducer, slot| {
            let last = loss(&parameters, group.rank(), slot);
            reducer.prepare_for_backward(&[last.shallow_clone()]).unwrap();
            last.backward();
        };
        let reducer = Reducer::new(&group, &own, 1 << 20, Compression::None).unwrap();
        reduced(&reducer, 0);
        reduced(&reducer, 0); // in buckets that were made new
        let mut places: Vec<_> =
            parameters.iter().map(|it| (it.grad().data_ptr() as usize, size_of::<f32>() * it.numel())).collect();
        places.sort_unstable();
        let in_one_piece = places.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0);
        drop(reducer);
        for parameter in &parameters {
            let _ = parameter.grad().zero_();
        }
        loss(&parameters, group.rank(), 0).backward();
        let other = Reducer::new(&group, &own, 4096, Compression::None).unwrap();
        reduced(&other, 1);
        (in_one_piece, parameters.iter().map(|it| values(&it.grad())).collect::<Vec<_>>())
    });
    for (in_one_piece, found) in &results {
        assert!(in_one_piece, "each gradient has memory of its own");
        assert_close(found, &expected(2, 2), 1e-5);
    }
}

#[test]
fn alone_the_reducer_changes_nothing() {
    let group = ProcessGroup::new(Backend::Solo, Arc::new(MemoryStore::new()), cluster::options(0, 1)).unwrap();
    let parameters = parameters();
    let reducer = Reducer::new(&group, &[], 1 << 20, Compression::None).unwrap();
    let last = loss(&parameters, 0, 0);
    reducer.prepare_for_backward(&[last.shallow_clone()]).unwrap();
    last.backward();
    let found: Vec<_> = parameters.iter().map(|p| values(&p.grad())).collect();
    assert_eq!(found, expected(1, 1));
}

#[test]
fn fused_adamw_follows_its_definition() {
    for bias_correction in [true, false] {
        let (parameter, gradient) = (ramp(7, 13, 0.2), ramp(7, 13, 0.05));
        let (average, square) = (gradient.zeros_like(), gradient.zeros_like());
        let (mut p, mut m, mut v): (Vec<f64>, Vec<f64>, Vec<f64>) =
            (values(&parameter).iter().map(|x| f64::from(*x)).collect(), vec![0.0; 91], vec![0.0; 91]);
        for step in 1..=5 {
            let numbers = AdamW {
                step,
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.98,
                weight_decay: 0.1,
                epsilon: 1e-6,
                bias_correction,
            };
            let list = |tensor: &Tensor| [tensor.shallow_clone()];
            fused_adamw(&list(&parameter), &list(&gradient), &list(&average), &list(&square), &numbers).unwrap();
            let correction = |beta: f64| if bias_correction { 1.0 - beta.powi(step as i32) } else { 1.0 };
            for (i, g) in values(&gradient).into_iter().map(f64::from).enumerate() {
                p[i] -= numbers.learning_rate * numbers.weight_decay * p[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.98 * v[i] + 0.02 * g * g;
                p[i] -= numbers.learning_rate * (m[i] / correction(0.9))
                    / ((v[i] / correction(0.98)).sqrt() + numbers.epsilon);
            }
        }
        for (found, expected) in values(&parameter).into_iter().zip(p) {
            assert!((f64::from(found) - expected).abs() < 1e-5, "{found} against {expected}");
        }
    }
}

#[test]
fn lists_that_do_not_go_together_are_an_error() {
    let one = [ramp(2, 2, 1.0)];
    let numbers = AdamW {
        step: 1,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        weight_decay: 0.0,
        epsilon: 1e-8,
        bias_correction: true,
    };
    assert!(
        fused_adamw(&one, &[], &one, &one, &numbers).unwrap_err().to_string().contains("1 parameters, 0 gradients")
    );
    assert!(fused_adamw(&[], &[], &[], &[], &numbers).is_ok());
}

#[test]
fn the_report_names_the_libraries() {
    let report = c10d::runtime_report();
    assert!(report.libtorch.starts_with("2.11."), "{report:?}");
    assert!(report.gloo && report.threads >= 1);
    assert_eq!(report.nccl.is_ok(), cfg!(feature = "cuda"), "{report:?}");
}

/// Gloo's share of this is in the trainer's tests: the ranks here are threads, and a process has one thread for the
/// backward passes of a device.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA device"]
fn gradients_of_a_device_are_averaged_by_nccl() {
    let backend = Backend::Nccl { device: 0 };
    for (compression, relative) in [(Compression::None, 1e-4), (Compression::Bf16, 2e-2)] {
        let group = ProcessGroup::new(backend, Arc::new(MemoryStore::new()), cluster::options(0, 1)).unwrap();
        let parameters: Vec<Tensor> =
            parameters().iter().map(|t| t.detach().to_device(group.device()).set_requires_grad(true)).collect();
        let own: Vec<Tensor> = parameters.iter().map(Tensor::shallow_clone).collect();
        let reducer = Reducer::new(&group, &own, 4096, compression).unwrap();
        for _ in 0..2 {
            for parameter in &parameters {
                let mut gradient = parameter.grad();
                if gradient.defined() {
                    let _ = gradient.zero_();
                }
            }
            let input = ramp(4, 40, 0.1).to_device(group.device());
            let output = input.matmul(&parameters[0]).tanh().matmul(&parameters[1]) + &parameters[2];
            let loss = output.square().mean(Kind::Float);
            reducer.prepare_for_backward(&[loss.shallow_clone()]).unwrap();
            loss.backward();
        }
        let found: Vec<Vec<f32>> = parameters.iter().map(|p| values(&p.grad().to_device(Device::Cpu))).collect();
        assert_close(&found, &expected(1, 1), relative);
    }
}
