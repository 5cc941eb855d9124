//! What the operators that read the vocabulary's table add to its gradient themselves, in exact mode and in fast mode.

use kernels::fixed_point::{self, Turn};
use kernels::peak_memory;
use tch::{Device, Kind, Tensor};

const BITS: u32 = 32;

/// A loss that reads its table three times: rows of it, rows of it again, and all of it, for so many rows at a time.
fn tied_loss(table: &Tensor, bias: &Tensor, scale: f64, most: i64) -> Tensor {
    let ids = Tensor::from_slice(&[3_i64, 8999, 3, 17, 4500, 3]);
    let again = kernels::embedding(table, &(&ids - 1)) * 0.5;
    let rows = kernels::embedding(table, &ids) + again;
    let labels = Tensor::from_slice(&[0_i64, 8999, 5000, 1, 2, 3]);
    kernels::masked_loss_in_parts(&rows, table, bias, &labels, most).0 * scale
}

#[test]
fn what_operators_add_to_the_sum_is_their_gradient() {
    tch::manual_seed(1);
    let table = Tensor::randn([9000, 32], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let bias = Tensor::randn([9000], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let leaves = [&table, &bias];
    let (elements, offsets) = (9000 * 33, [9000_usize, 0]);
    let gradients = Tensor::run_backward(&[tied_loss(&table, &bias, 0.3, 6)], &leaves, false, false);
    let expected = Tensor::zeros([elements as i64], (Kind::Int64, Device::Cpu));
    for (gradient, offset) in gradients.iter().zip(offsets) {
        assert_eq!(fixed_point::accumulate(gradient, &expected, offset, gradient.numel(), BITS, Turn::Later), 0);
    }
    let run = |threads, most, turns: &[Turn]| {
        tch::set_num_threads(threads);
        let sum = Tensor::full([elements as i64], 77, (Kind::Int64, Device::Cpu));
        for &turn in turns {
            let loss = tied_loss(&table, &bias, 0.3, most);
            assert_eq!(fixed_point::backward(&loss, &leaves, &offsets, &sum, BITS, turn, |_| ()), 0);
        }
        assert!(!table.grad().defined(), "no gradient is kept");
        sum
    };
    // Float32 rounds numbers of about 1 to 2^-24, in another order.
    let off = |found: &Tensor, expected: &Tensor| {
        (found - expected).abs().max().double_value(&[]) * 2_f64.powi(-(BITS as i32))
    };
    let once = run(1, 6, &[Turn::First]);
    assert!(off(&once, &expected) < 1e-6, "off by {:e}", off(&once, &expected));
    let twice = run(2, 6, &[Turn::First, Turn::Later]);
    assert!(off(&twice, &(&expected * 2)) < 2e-6, "twice is off by {:e}", off(&twice, &(&expected * 2)));
    // Two parts and three, which add themselves, and six, which is more than may.
    for most in [5, 2, 1] {
        let parts = run(1, most, &[Turn::First]);
        assert_eq!(parts, run(1, most, &[Turn::First]), "the same bits again");
        assert!(off(&parts, &expected) < 4e-6, "parts of {most} are off by {:e}", off(&parts, &expected));
    }
}

#[test]
fn a_leaf_is_done_when_nothing_of_it_is_still_to_come() {
    tch::manual_seed(2);
    let leaf = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (table, bias, weight, unused) = (leaf(&[9000, 32]), leaf(&[9000]), leaf(&[32, 32]), leaf(&[5]));
    let leaves = [&table, &unused, &bias, &weight];
    let offsets = [0, 9000 * 32, 9000 * 32 + 5, 9000 * 33 + 5];
    let sum = Tensor::full([9000 * 33 + 5 + 1024], 77, (Kind::Int64, Device::Cpu));
    let part = |leaf: usize| sum.narrow(0, offsets[leaf] as i64, leaves[leaf].numel() as i64);
    let ids = Tensor::from_slice(&[3_i64, 8999, 3]);
    let rows = kernels::linear(&kernels::embedding(&table, &ids), &weight, None);
    let loss = kernels::masked_loss(&rows, &table, &bias, &ids).0;
    let mut told = Vec::new();
    fixed_point::backward(&loss, &leaves, &offsets, &sum, BITS, Turn::First, |leaf| {
        told.push((leaf, part(leaf).copy()))
    });
    // The table adds to the sum itself, and of what took no part there is nothing to hear: both are known at the end.
    assert_eq!(told.iter().map(|(leaf, _)| *leaf).collect::<Vec<_>>(), [2, 3, 0, 1]);
    for (leaf, then) in told {
        assert_eq!(then, part(leaf), "leaf {leaf} as it was when it was done, and at the end");
    }
}

#[test]
fn what_operators_cannot_add_is_counted() {
    let table = Tensor::ones([9000, 32], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let bias = Tensor::zeros([9000], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let bad = |scale| {
        let sum = Tensor::zeros([9000 * 33], (Kind::Int64, Device::Cpu));
        fixed_point::backward(
            &tied_loss(&table, &bias, scale, 6),
            &[&table, &bias],
            &[9000, 0],
            &sum,
            BITS,
            Turn::First,
            |_| (),
        )
    };
    assert_eq!(bad(1.0), 0);
    assert!(bad(1e9) > 0, "too large");
    assert!(bad(f64::NAN) >= 9000 * 33, "not a number");
}

#[test]
fn what_operators_add_to_a_gradient_that_is_there_is_what_autograd_adds() {
    tch::manual_seed(1);
    let leaves = || {
        let table = Tensor::randn([9000, 32], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let bias = Tensor::randn([9000], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (table, bias)
    };
    let (table, bias) = leaves();
    let same = |of: &Tensor| of.detach().copy().set_requires_grad(true);
    let (other_table, other_bias) = (same(&table), same(&bias));
    // The first pass makes the gradients, the next ones add to them: of the whole, and in parts that are made again.
    for most in [6, 6, 2] {
        tied_loss(&table, &bias, 0.3, most).backward();
        let loss = tied_loss(&other_table, &other_bias, 0.3, most);
        let place = other_table.grad().defined().then(|| other_table.grad().data_ptr());
        let ((), peak) = peak_memory(|| kernels::backward(&loss).unwrap());
        let of_table = 9000 * 32 * 4;
        match place {
            Some(place) => {
                assert_eq!(other_table.grad().data_ptr(), place, "the gradient is where it was");
                assert!(peak < of_table, "{peak} bytes for a table of {of_table}");
            }
            None => assert!(peak > of_table, "{peak} bytes hold no gradient"),
        }
        for (found, expected) in [(&other_table, &table), (&other_bias, &bias)] {
            let off = (found.grad() - expected.grad()).abs().max().double_value(&[]);
            assert!(off < 4e-6, "off by {off:e}");
        }
    }
    // Another pass than this one takes nothing for itself.
    let place = other_table.grad().copy();
    let gradients =
        Tensor::run_backward(&[tied_loss(&other_table, &other_bias, 0.3, 6)], &[&other_table], false, false);
    assert!(gradients[0].abs().max().double_value(&[]) > 0.0);
    assert_eq!(other_table.grad(), place);
}

#[test]
fn a_loss_without_a_backward_pass_is_an_error() {
    let error = kernels::backward(&Tensor::zeros([1], (Kind::Float, Device::Cpu))).unwrap_err().to_string();
    assert!(error.contains("does not require grad"), "{error}");
}
