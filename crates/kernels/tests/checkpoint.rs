//! Activation checkpointing: the same bits for less memory.

use kernels::fixed_point::{self, Turn};
use kernels::{checkpoint, dropout, linear, peak_memory, with_bfloat16};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Two dense layers with dropout around a residual connection, which uses its input twice.
fn part(input: &Tensor, weights: &[Tensor; 2]) -> Tensor {
    let wide = dropout(&linear(input, &weights[0], None).gelu("none"), 0.3);
    dropout(&linear(&wide, &weights[1], None), 0.1) + input
}

/// All of a process draw from one generator, and `cargo test` runs its tests side by side.
static GENERATOR: Mutex<()> = Mutex::new(());

struct Net {
    _generator: MutexGuard<'static, ()>,
    input: Tensor,
    weights: [Tensor; 2],
}

impl Net {
    fn new() -> Self {
        let generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::manual_seed(1);
        let leaf = |shape: [i64; 2]| (Tensor::randn(shape, FLOAT) * 0.2).set_requires_grad(true);
        Self { _generator: generator, input: leaf([64, 32]), weights: [leaf([128, 32]), leaf([32, 128])] }
    }

    /// The part `depth` times over, always with the same weights.
    fn run(&self, checkpointed: bool, depth: usize) -> Tensor {
        tch::manual_seed(2);
        let mut hidden = &self.input * 1.0;
        for _ in 0..depth {
            let weights = [0, 1].map(|index: usize| self.weights[index].shallow_clone());
            hidden = if checkpointed {
                let leaves: Vec<&Tensor> = self.weights.iter().collect();
                checkpoint(&hidden, &leaves, move |input| part(input, &weights))
            } else {
                part(&hidden, &weights)
            };
        }
        hidden
    }

    fn leaves(&self) -> [&Tensor; 3] {
        [&self.input, &self.weights[0], &self.weights[1]]
    }
}

#[test]
fn values_gradients_and_what_is_drawn_afterwards_are_the_same_bits() {
    let net = Net::new();
    let run = |checkpointed| {
        let hidden = net.run(checkpointed, 3);
        let after = Tensor::rand([4], FLOAT);
        let gradients = Tensor::run_backward(&[hidden.square().sum(Kind::Float)], &net.leaves(), false, false);
        (hidden.detach(), after, gradients, Tensor::rand([4], FLOAT))
    };
    let (plain, again) = (run(false), run(true));
    assert_eq!(plain, again);
    assert_ne!(plain.1, plain.3, "the generator went on from where it was");
}

#[test]
fn leaves_that_are_used_in_several_parts_reach_their_hooks_once() {
    let net = Net::new();
    let sums = |checkpointed, turn| {
        let count: usize = net.leaves().iter().map(|leaf| leaf.numel()).sum();
        // What it held before must be forgotten in the first turn, and only then.
        let accumulator = Tensor::full([count as i64], 7, (Kind::Int64, Device::Cpu));
        let mut offsets = vec![0];
        for leaf in &net.leaves()[..2] {
            offsets.push(offsets.last().unwrap() + leaf.numel());
        }
        let loss = net.run(checkpointed, 3).square().mean(Kind::Float);
        assert_eq!(fixed_point::backward(&loss, &net.leaves(), &offsets, &accumulator, 40, turn, |_| ()), 0);
        accumulator
    };
    for turn in [Turn::First, Turn::Later] {
        assert_eq!(sums(false, turn), sums(true, turn), "{turn:?}");
    }
    assert_ne!(sums(true, Turn::First), sums(true, Turn::Later));
}

#[test]
fn a_part_is_run_again_in_the_kind_it_ran_in() {
    let net = Net::new();
    // Once: of a weight that is used twice autocast keeps one bfloat16 copy, and adds its gradients up in that.
    let run = |checkpointed| {
        let hidden = with_bfloat16(Device::Cpu, || net.run(checkpointed, 1));
        let gradients = Tensor::run_backward(&[hidden.square().sum(Kind::Float)], &net.leaves(), false, false);
        (hidden.detach(), gradients)
    };
    let (plain, again) = (run(false), run(true));
    assert_eq!(plain, again);
    assert_ne!(plain.0, net.run(false, 1).detach(), "bfloat16 makes a difference");
}

#[test]
fn memory_does_not_grow_by_what_is_inside_of_the_parts() {
    tch::set_num_threads(1);
    let net = Net::new();
    let peak = |checkpointed, depth| {
        let (_, bytes) = peak_memory(|| {
            let loss = net.run(checkpointed, depth).square().sum(Kind::Float);
            Tensor::run_backward(&[loss], &net.leaves(), false, false)
        });
        bytes as f64
    };
    let layer = |checkpointed| (peak(checkpointed, 12) - peak(checkpointed, 4)) / 8.0;
    let (plain, again) = (layer(false), layer(true));
    // Kept of each part: one [64, 32] of 8 KiB, and where the generator stood; else also what is 4 times as wide, thrice.
    let input = f64::from(64 * 32 * 4);
    assert!(again < 2.0 * input, "{again} bytes a part");
    assert!(plain > 8.0 * input, "{plain} bytes a part");
}

#[test]
fn nothing_is_run_again_or_kept_without_a_backward_pass() {
    let alive = Arc::new(());
    let runs = Arc::new(AtomicUsize::new(0));
    let (inside, counted) = (alive.clone(), runs.clone());
    let input = Tensor::ones([2], FLOAT).set_requires_grad(true);
    let output = checkpoint(&input, &[], move |input| {
        let _ = &inside;
        counted.fetch_add(1, Ordering::Relaxed);
        input * 2.0
    });
    assert_eq!((runs.load(Ordering::Relaxed), Arc::strong_count(&alive)), (1, 2));
    drop(output);
    assert_eq!(Arc::strong_count(&alive), 1);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[test]
#[should_panic(expected = "the part broke")]
fn a_panic_inside_comes_out() {
    let _ = checkpoint(&Tensor::ones([2], FLOAT), &[], |_| panic!("the part broke"));
}
