//! Attention without padding beside libtorch's own, row by row.

use kernels::row_attention;
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const HEADS: i64 = 3;
const WIDTH: i64 = 20;

/// Queries, keys and values of so many tokens, as views of one product, and the leaf behind them.
fn drawn(tokens: i64) -> (Tensor, Vec<Tensor>) {
    let leaf = Tensor::randn([tokens, 3, HEADS, WIDTH], FLOAT).set_requires_grad(true);
    let parts = leaf.unbind(1);
    (leaf, parts)
}

/// Which keys of a row of this length the queries see: `[length, length]`.
fn seen(length: i64, reach: Option<i64>) -> Tensor {
    let at = Tensor::arange(length, (Kind::Int64, Device::Cpu));
    (at.unsqueeze(0) - at.unsqueeze(1)).abs().le(reach.unwrap_or(length))
}

/// The definition, in double precision: the softmax of the scores that a token sees, times the values.
fn reference(parts: &[Tensor], lengths: &[i64], reach: Option<i64>) -> Tensor {
    let mut start = 0;
    let rows: Vec<Tensor> = lengths
        .iter()
        .map(|&length| {
            let of_row = |part: usize| parts[part].narrow(0, start, length).transpose(0, 1).to_kind(Kind::Double);
            let [query, key, value] = [0, 1, 2].map(of_row);
            start += length;
            let scores = query.matmul(&key.transpose(1, 2)) / (WIDTH as f64).sqrt();
            let scores = scores.masked_fill(&seen(length, reach).logical_not(), f64::NEG_INFINITY);
            scores.softmax(-1, Kind::Double).matmul(&value).transpose(0, 1).to_kind(Kind::Float)
        })
        .collect();
    Tensor::cat(&rows, 0)
}

fn gradient_of(result: &Tensor, leaf: &Tensor) -> Tensor {
    let weights = Tensor::arange(result.numel() as i64, FLOAT).reshape(result.size()).sin();
    Tensor::run_backward(&[(result * weights).sum(Kind::Float)], &[leaf], false, false).remove(0)
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off < 5e-6, "{what}: off by {off:e}");
}

#[test]
fn rows_and_windows_are_the_definition() {
    tch::manual_seed(1);
    // One token; lengths around the block of 128 queries; a row of nothing.
    for lengths in [vec![1], vec![5, 1, 17], vec![128, 127, 129, 3], vec![300, 0, 40]] {
        for reach in [None, Some(0), Some(2), Some(64), Some(1000)] {
            let (leaf, parts) = drawn(lengths.iter().sum());
            let result = row_attention(&parts[0], &parts[1], &parts[2], &lengths, reach, 0.0);
            let expected = reference(&parts, &lengths, reach);
            let what = format!("{lengths:?}, {reach:?}");
            assert_close(&result, &expected, &what);
            assert_close(&gradient_of(&result, &leaf), &gradient_of(&expected, &leaf), &what);
        }
    }
}

#[test]
fn neither_the_rows_beside_it_nor_threads_change_a_row() {
    tch::manual_seed(2);
    let lengths = [37, 140, 9, 64];
    let (leaf, parts) = drawn(lengths.iter().sum());
    let run = |threads| {
        tch::set_num_threads(threads);
        let result = row_attention(&parts[0], &parts[1], &parts[2], &lengths, Some(20), 0.0);
        let gradient = gradient_of(&result, &leaf);
        (result.detach(), gradient)
    };
    let (alone, together) = (run(1), run(2));
    assert_eq!(alone, together);
    let second = |tensor: &Tensor| tensor.narrow(0, 37, 140);
    let cut: Vec<Tensor> = parts.iter().map(second).collect();
    let row = row_attention(&cut[0], &cut[1], &cut[2], &[140], Some(20), 0.0);
    assert_close(&row, &second(&alone.0), "a row by itself");
}

#[test]
fn weights_are_dropped_in_their_share_and_by_the_seed() {
    // With as many tokens as a head is wide and values that pick one key each, the result is the weights themselves.
    let length = 256;
    tch::manual_seed(3);
    let [query, key] = [0, 1].map(|_| Tensor::randn([2 * length, 2, length], FLOAT) * 0.1);
    let value = Tensor::eye(length, FLOAT).repeat([2, 1]).unsqueeze(1).expand([2 * length, 2, length], false);
    let run = |seed, dropout: f64| {
        tch::manual_seed(seed);
        row_attention(&query, &key, &value, &[length, length], None, dropout)
    };
    let whole = run(1, 0.0);
    for dropout in [0.1, 0.6] {
        let some = run(5, dropout);
        assert_eq!(some, run(5, dropout));
        assert_ne!(some, run(6, dropout));
        let dropped = some.eq(0.0);
        let share = dropped.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        let count = (2 * 2 * length * length) as f64;
        let bound = 5.0 * (dropout * (1.0 - dropout) / count).sqrt();
        assert!((share - dropout).abs() < bound, "{share} instead of {dropout}");
        let kept = (&whole / (1.0 - dropout)).masked_fill(&dropped, 0.0);
        assert_close(&some, &kept, "what is kept is scaled");
        // Rows and heads have masks of their own.
        let rows = dropped.view([2, length, 2, length]);
        assert!(!rows.get(0).equal(&rows.get(1)) && !rows.select(2, 0).equal(&rows.select(2, 1)));
    }
}

#[test]
fn the_backward_pass_meets_the_same_mask() {
    // The mask, read off as above, makes the definition of what is differentiated.
    let (length, dropout) = (32, 0.3);
    tch::manual_seed(4);
    let leaf = Tensor::randn([length, 3, 1, length], FLOAT).set_requires_grad(true);
    let parts = leaf.unbind(1);
    let run = |value: &Tensor| {
        tch::manual_seed(7);
        row_attention(&parts[0], &parts[1], value, &[length], Some(9), dropout)
    };
    let eye = Tensor::eye(length, FLOAT).unsqueeze(1);
    let kept = run(&eye).detach().squeeze_dim(1).ne(0.0).to_kind(Kind::Float) / (1.0 - dropout);
    let result = run(&parts[2]);
    let of = |part: usize| parts[part].squeeze_dim(1);
    let scores = of(0).matmul(&of(1).transpose(0, 1)) / (length as f64).sqrt();
    let scores = scores.masked_fill(&seen(length, Some(9)).logical_not(), f64::NEG_INFINITY);
    let expected = (scores.softmax(-1, Kind::Float) * kept).matmul(&of(2)).unsqueeze(1);
    assert_close(&result, &expected, "the result");
    assert_close(&gradient_of(&result, &leaf), &gradient_of(&expected, &leaf), "the gradient");
}

#[test]
fn what_is_not_finite_stays_visible() {
    let query = Tensor::full([4, 1, 8], f64::NAN, FLOAT);
    let other = Tensor::ones([4, 1, 8], FLOAT);
    let result = row_attention(&query, &other, &other, &[4], None, 0.0);
    assert!(result.isnan().all().int64_value(&[]) != 0, "{result}");
}

#[test]
#[should_panic(expected = "rows of 5 tokens in all")]
fn lengths_that_do_not_make_up_the_tokens_are_refused() {
    let tensor = Tensor::zeros([4, 1, 8], FLOAT);
    let _ = row_attention(&tensor, &tensor, &tensor, &[2, 3], None, 0.0);
}
