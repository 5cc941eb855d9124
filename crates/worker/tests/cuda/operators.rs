//! The operators.

use crate::GPU;
use kernels::fixed_point::{self, Turn};
use kernels::{deterministic_algorithms, dropout, masked_loss, with_bfloat16};
use tch::{Device, Kind, Tensor};

fn random(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}

fn far(found: &Tensor, expected: &Tensor) -> f64 {
    let expected = expected.detach();
    let difference = found.detach().to_device(Device::Cpu) - &expected;
    difference.norm().double_value(&[]) / expected.norm().double_value(&[])
}

#[test]
#[ignore = "needs a CUDA device"]
fn gradients_that_are_converted_together_have_the_bits_of_each_alone() {
    tch::manual_seed(3);
    let leaf = |size: &[i64]| random(size).to_device(GPU).set_requires_grad(true);
    let leaves = [leaf(&[300, 70]), leaf(&[70]), leaf(&[9]), leaf(&[300, 5]), leaf(&[1])];
    let loss = || {
        let rows = (&leaves[0] * 3.0).tanh() + &leaves[1]; // the third and the fifth take no part
        (rows.transpose(0, 1).matmul(&leaves[3].exp())).sum(Kind::Float) * 1e-3
    };
    let offsets = [0, 21_000, 21_070, 21_085, 22_585]; // with a gap of six
    let sum = Tensor::full([22_590], 7, (Kind::Int64, GPU));
    let expected = sum.copy();
    for turn in [Turn::First, Turn::Later] {
        let parts: Vec<&Tensor> = leaves.iter().collect();
        let bad = fixed_point::backward(&loss(), &parts, &offsets, &sum, 44, turn, |_| ());
        let gradients = Tensor::run_backward(&[loss()], &[&leaves[0], &leaves[1], &leaves[3]], false, false);
        let none = Tensor::new();
        let all = [&gradients[0], &gradients[1], &none, &gradients[2], &none];
        let alone: u64 = (0..5)
            .map(|index| {
                let count = leaves[index].numel();
                fixed_point::accumulate(all[index], &expected, offsets[index], count, 44, turn)
            })
            .sum();
        assert_eq!(bad, alone);
        assert!(sum.equal(&expected), "{turn:?}");
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn fixed_point_has_the_same_bits() {
    tch::manual_seed(1);
    let mut gradient = random(&[100_003]) * 3.0;
    for (index, value) in [(5, f64::NAN), (6, f64::INFINITY), (7, 129.0), (8, -127.9), (9, 1e-12)] {
        let _ = gradient.narrow(0, index, 1).fill_(value);
    }
    gradient = gradient * 1.0;
    for bits in [20, 44] {
        let run = |device: Device| {
            let sum = Tensor::full([100_010], 7, (Kind::Int64, device));
            let gradient = gradient.to_device(device);
            let bad: Vec<u64> = [Turn::First, Turn::Later, Turn::Later]
                .into_iter()
                .map(|turn| fixed_point::accumulate(&gradient, &sum, 3, 100_003, bits, turn))
                .collect();
            let back = Tensor::zeros([100_003], (Kind::Float, device));
            fixed_point::to_float(&sum, 3, &back, bits);
            (bad, sum.to_device(Device::Cpu), back.to_device(Device::Cpu))
        };
        let (here, there) = (run(Device::Cpu), run(GPU));
        assert_eq!(here.0, there.0, "{bits} bits");
        assert!(here.1.equal(&there.1) && here.2.equal(&there.2), "{bits} bits");
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_backward_pass_fills_the_sum() {
    tch::manual_seed(2);
    let (rows, weight, bias) = (random(&[37, 24]), random(&[50, 24]), random(&[50]));
    let labels = Tensor::randint(50, [37], (Kind::Int64, Device::Cpu));
    let run = |device: Device| {
        let [rows, weight, bias] =
            [&rows, &weight, &bias].map(|tensor| tensor.to_device(device).detach().copy().set_requires_grad(true));
        let idle = Tensor::zeros([4], (Kind::Float, device)).set_requires_grad(true);
        let leaves = [&rows, &weight, &bias, &idle];
        let sum = Tensor::full([24 * 87 + 54], 9, (Kind::Int64, device));
        let offsets = [0, 24 * 37, 24 * 87, 24 * 87 + 50];
        for turn in [Turn::First, Turn::Later] {
            let (loss, correct) = masked_loss(&rows, &weight, &bias, &labels.to_device(device));
            assert!(correct.int64_value(&[]) < 37);
            assert_eq!(fixed_point::backward(&(loss * 1e-3), &leaves, &offsets, &sum, 40, turn, |_| ()), 0);
        }
        assert!(leaves.iter().all(|leaf| !leaf.grad().defined()));
        let broken = (&bias * f64::NAN).sum(Kind::Float);
        let scratch = sum.copy();
        assert_eq!(fixed_point::backward(&broken, &leaves, &offsets, &scratch, 40, Turn::Later, |_| ()), 50);
        sum.to_device(Device::Cpu).to_kind(Kind::Double)
    };
    let (here, there) = (run(Device::Cpu), run(GPU));
    assert!(far(&there, &here) < 1e-5, "{}", far(&there, &here));
    assert_eq!(there.narrow(0, 24 * 87 + 50, 4).sum(Kind::Double).double_value(&[]), 0.0);
}

#[test]
#[ignore = "needs a CUDA device"]
fn bfloat16_is_near_float32_and_both_repeat_their_bits() {
    deterministic_algorithms().expect("libtorch has that mode");
    tch::manual_seed(3);
    let (rows, weight) = (random(&[512, 256]), random(&[1024, 256]));
    let run = |bfloat16: bool, probability: f64| {
        tch::manual_seed(4);
        let [rows, weight] = [&rows, &weight].map(|tensor| tensor.to_device(GPU).detach().set_requires_grad(true));
        let forward = || {
            let dropped = dropout(&kernels::linear(&rows, &weight, None), probability);
            (dropped.kind(), dropped.square().mean(Kind::Float))
        };
        let (kind, loss) = if bfloat16 { with_bfloat16(GPU, forward) } else { forward() };
        assert_eq!(kind, if bfloat16 { Kind::BFloat16 } else { Kind::Float });
        loss.backward();
        assert_eq!(weight.grad().kind(), Kind::Float);
        weight.grad().to_device(Device::Cpu)
    };
    for bfloat16 in [false, true] {
        assert!(run(bfloat16, 0.1).equal(&run(bfloat16, 0.1)));
    }
    // What dropout drops depends on the kind.
    let off = far(&run(true, 0.0), &run(false, 0.0));
    assert!(off > 0.0 && off < 2e-2, "{off}");
}
