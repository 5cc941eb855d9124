//! Exact reduction: the same bits for every order, grouping and number of threads, and as accurate as a ring.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

use kernels::fixed_point::{self, Turn, to_float};
use tch::{Device, Kind, Tensor};

/// Of all elements of a defined gradient, or of as many as there are from `offset` on.
fn accumulate(gradient: &Tensor, accumulator: &Tensor, offset: usize, bits: u32) -> u64 {
    let count = if gradient.defined() { gradient.numel() } else { accumulator.numel() - offset };
    fixed_point::accumulate(gradient, accumulator, offset, count, bits, Turn::Later)
}

const BITS: u32 = 32;

/// A small generator (SplitMix64) so that a failing case is named by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gradients as they come: signs mixed, magnitudes spread over `2^-span..1` times `scale`.
    fn gradient(&mut self, length: usize, span: u32, scale: f32) -> Vec<f32> {
        (0..length)
            .map(|_| {
                let fraction = (self.next() >> 40) as f32 / (1 << 24) as f32;
                let exponent = (self.next() % u64::from(span + 1)) as i32;
                let sign = if self.next() & 1 == 0 { 1.0 } else { -1.0 };
                sign * (1.0 + fraction) * 2_f32.powi(-exponent) * scale
            })
            .collect()
    }
}

fn zeros(length: usize) -> Tensor {
    Tensor::zeros([length as i64], (Kind::Int64, Device::Cpu))
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor).unwrap()
}

/// The contract in plain Rust.
fn reference(value: f32, bits: u32) -> Option<i64> {
    let scaled = f64::from(value) * 2_f64.powi(bits as i32);
    (scaled.abs() < 2_f64.powi(51)).then(|| scaled.round_ties_even() as i64)
}

#[test]
fn each_element_is_rounded_to_nearest_even() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let bits = 20 + (random.next() % 20) as u32;
        // Odd lengths, so that every vector width has a remainder.
        let length = 1 + (random.next() % 999) as usize;
        let mut values = random.gradient(length, 40, 4.0);
        values[0] = 1.5 * 2_f32.powi(-(bits as i32)); // a tie
        let accumulator = zeros(length + 3);
        assert_eq!(accumulate(&Tensor::from_slice(&values), &accumulator, 3, bits), 0, "seed {seed}");
        let mut expected = vec![0; 3];
        expected.extend(values.iter().map(|value| reference(*value, bits).unwrap()));
        assert_eq!(integers(&accumulator), expected, "seed {seed}");
    }
}

#[test]
fn back_to_float_is_correctly_rounded_over_the_whole_range() {
    let mut random = Random(7);
    let mut values: Vec<i64> = (0..5000).map(|_| (random.next() as i64) >> (random.next() % 64)).collect();
    values.extend([0, 1, -1, i64::MAX, i64::MIN, i64::MAX - 1, (1 << 53) + 1, -(1 << 53) - 1, u32::MAX.into()]);
    let gradient = Tensor::zeros([values.len() as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    to_float(&Tensor::from_slice(&values), 0, &gradient, BITS);
    let found: Vec<f32> = Vec::try_from(&gradient.detach()).unwrap();
    for (value, found) in values.iter().zip(found) {
        let expected = (*value as f64 * 2_f64.powi(-(BITS as i32))) as f32;
        assert_eq!(found.to_bits(), expected.to_bits(), "{value}");
    }
}

#[test]
fn what_cannot_be_represented_is_counted_and_adds_nothing() {
    let limit = 2_f32.powi(51 - BITS as i32);
    let below = f32::from_bits(limit.to_bits() - 1);
    let values =
        [limit, -limit, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, below, -below, 0.0, f32::MIN_POSITIVE];
    for repeat in [1, 7, 100] {
        let all = values.repeat(repeat);
        let accumulator = zeros(all.len());
        assert_eq!(accumulate(&Tensor::from_slice(&all), &accumulator, 0, BITS), 6 * repeat as u64);
        let expected: Vec<i64> = all.iter().map(|value| reference(*value, BITS).unwrap_or(0)).collect();
        assert_eq!(integers(&accumulator), expected);
    }
}

#[test]
fn any_order_grouping_and_thread_count_gives_the_same_bits() {
    for seed in 0..3 {
        let mut random = Random(seed);
        let length = 200_001; // several pieces of work for the threads
        let slots: Vec<Tensor> = (0..6).map(|_| Tensor::from_slice(&random.gradient(length, 30, 0.1))).collect();
        tch::set_num_threads(1);
        let once = zeros(length);
        for slot in &slots {
            assert_eq!(accumulate(slot, &once, 0, BITS), 0);
        }
        for (threads, groups) in
            [(1, vec![vec![5, 0, 3], vec![1, 2, 4]]), (3, vec![vec![2], vec![4, 1, 0, 3], vec![5]])]
        {
            tch::set_num_threads(threads);
            let sum = zeros(length);
            for group in groups {
                let mut part = zeros(length);
                for slot in group {
                    accumulate(&slots[slot], &part, 0, BITS);
                }
                part += &sum;
                sum.shallow_clone().copy_(&part);
            }
            assert_eq!(sum, once, "seed {seed}, {threads} threads");
            let (one, other) = (slots[0].zeros_like(), slots[0].zeros_like());
            to_float(&sum, 0, &one, BITS);
            tch::set_num_threads(1);
            to_float(&once, 0, &other, BITS);
            assert_eq!(one, other);
        }
    }
}

#[test]
fn no_less_accurate_than_a_float32_ring() {
    for seed in 0..5 {
        let mut random = Random(seed);
        let length = 100_000;
        // Per-slot gradients of a loss that is normalised by a global token count: small, over many octaves.
        let slots: Vec<Vec<f32>> = (0..8).map(|_| random.gradient(length, 12, 1e-2)).collect();
        let accumulator = zeros(length);
        for slot in &slots {
            assert_eq!(accumulate(&Tensor::from_slice(slot), &accumulator, 0, BITS), 0);
        }
        let fixed = Tensor::zeros([length as i64], (Kind::Float, Device::Cpu));
        to_float(&accumulator, 0, &fixed, BITS);
        let fixed: Vec<f32> = Vec::try_from(&fixed).unwrap();
        let (mut fixed_error, mut ring_error) = (0.0_f64, 0.0_f64);
        for i in 0..length {
            let exact: f64 = slots.iter().map(|slot| f64::from(slot[i])).sum();
            let ring = slots.iter().map(|slot| slot[i]).sum::<f32>();
            fixed_error += (f64::from(fixed[i]) - exact).powi(2);
            ring_error += (f64::from(ring) - exact).powi(2);
        }
        assert!(fixed_error <= ring_error, "seed {seed}: {} against {}", fixed_error.sqrt(), ring_error.sqrt());
    }
}

#[test]
fn other_layouts_and_missing_gradients() {
    let gradient = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).reshape([2, 3]);
    let accumulator = zeros(6);
    assert_eq!(accumulate(&gradient.transpose(0, 1), &accumulator, 0, 0), 0);
    assert_eq!(accumulate(&Tensor::new(), &accumulator, 0, 0), 0);
    assert_eq!(accumulate(&Tensor::from_slice(&[0.5_f64, 8.0]).to_kind(Kind::BFloat16), &accumulator, 4, 1), 0);
    assert_eq!(integers(&accumulator), vec![1, 4, 2, 5, 3 + 1, 6 + 16]);
}

#[test]
#[should_panic(expected = "outside of an accumulator of 3")]
fn an_accumulator_that_is_too_short_is_a_bug() {
    accumulate(&Tensor::from_slice(&[1.0_f32, 2.0]), &zeros(3), 2, BITS);
}

#[test]
fn the_first_gradient_of_a_sum_replaces_what_was_there() {
    let first = |gradient: &Tensor, accumulator: &Tensor, offset, count| {
        fixed_point::accumulate(gradient, accumulator, offset, count, 1, Turn::First)
    };
    let accumulator = Tensor::from_slice(&[7_i64; 6]);
    assert_eq!(first(&Tensor::from_slice(&[0.5_f32, f32::NAN, -2.0]), &accumulator, 1, 3), 1);
    assert_eq!(first(&Tensor::new(), &accumulator, 4, 1), 0, "of a parameter without a gradient: zero");
    assert_eq!(accumulate(&Tensor::from_slice(&[1.0_f32]), &accumulator, 1, 1), 0);
    assert_eq!(Vec::<i64>::try_from(&accumulator).unwrap(), [7, 3, 0, -4, 0, 7]);
}

#[test]
fn a_backward_pass_adds_what_its_gradients_would_add() {
    let leaf = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
    let (first, second, idle) = (leaf(&[1.0, -2.0, 3.5]), leaf(&[0.25, 4.0]), leaf(&[9.0]));
    let offsets = [2_usize, 0, 5];
    // The second is used twice, as tied weights are.
    let loss = || (&first * &first).sum(Kind::Float) + (&second * 3.0).sum(Kind::Float) + second.sum(Kind::Float);
    let sum = Tensor::from_slice(&[7_i64; 6]);
    let leaves = [&first, &second, &idle];
    assert_eq!(fixed_point::backward(&loss(), &leaves, &offsets, &sum, 1, Turn::First, |_| ()), 0);
    assert_eq!(Vec::<i64>::try_from(&sum).unwrap(), [8, 8, 4, -8, 14, 0]);
    assert_eq!(fixed_point::backward(&loss(), &leaves, &offsets, &sum, 1, Turn::Later, |_| ()), 0);
    assert_eq!(Vec::<i64>::try_from(&sum).unwrap(), [16, 16, 8, -16, 28, 0]);
    assert!(leaves.iter().all(|leaf| !leaf.grad().defined()), "no gradient is kept");
    // The hooks are gone.
    loss().backward();
    assert!(first.grad().defined());
    assert_eq!(Vec::<i64>::try_from(&sum).unwrap(), [16, 16, 8, -16, 28, 0]);
    let broken = (&first * f64::NAN).sum(Kind::Float);
    assert_eq!(fixed_point::backward(&broken, &leaves, &offsets, &sum, 1, Turn::Later, |_| ()), 3);
}

#[test]
fn real_numbers_may_take_the_place_of_the_sum() {
    for (length, start, end) in [(5, 0, 5), (200_003, 0, 200_003), (200_003, 700, 150_000), (200_003, 90_000, 200_003)]
    {
        let mut random = Random(length as u64);
        let values: Vec<i64> = (0..length).map(|_| (random.next() >> 8) as i64 - (1 << 55)).collect();
        let expected = Tensor::zeros([end - start], (Kind::Float, Device::Cpu));
        to_float(&Tensor::from_slice(&values), start as usize, &expected, BITS);
        for threads in [1, 2] {
            tch::set_num_threads(threads);
            let accumulator = Tensor::from_slice(&values);
            let part = accumulator.view_dtype(Kind::Float).narrow(0, start, end - start);
            to_float(&accumulator, start as usize, &part, BITS);
            assert_eq!(part, expected, "{start}..{end} of {length}, {threads} threads");
        }
    }
}
