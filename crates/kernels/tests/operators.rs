//! Each operator beside libtorch's own.

use kernels::{
    attention, dropout, embedding, gated_gelu, gelu, linear, masked_loss, masked_loss_in_parts, peak_memory,
    with_bfloat16,
};
use tch::{Device, Kind, Reduction, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, FLOAT)
}

fn leaf(tensor: &Tensor) -> Tensor {
    tensor.copy().set_requires_grad(true)
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_within(found, expected, 2e-6, what);
}

/// `limit` is relative to the largest expected element.
#[track_caller]
fn assert_within(found: &Tensor, expected: &Tensor, limit: f64, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let scale = expected.abs().max().double_value(&[]).max(1e-6);
    let error = (found - expected).abs().max().double_value(&[]) / scale;
    assert!(error < limit, "{what} differs by {error:e} of its largest element");
}

#[test]
fn linear_and_its_gradients_are_libtorchs() {
    tch::manual_seed(1);
    for (shape, outputs) in [(vec![3, 5, 16], 24), (vec![7, 256], 1), (vec![1, 1, 8], 300), (vec![64, 33], 31)] {
        for with_bias in [true, false] {
            let (input, weight, bias) =
                (random(&shape), random(&[outputs, *shape.last().unwrap_or(&1)]), random(&[outputs]));
            let run = |ours: bool| {
                let [input, weight, bias] = [&input, &weight, &bias].map(leaf);
                let bias = with_bias.then_some(bias);
                let result =
                    if ours { linear(&input, &weight, bias.as_ref()) } else { input.linear(&weight, bias.as_ref()) };
                // A gradient that is not the same everywhere, and comes transposed.
                let gradient = Tensor::arange(result.numel() as i64, FLOAT).reshape(result.size()).sin();
                let leaves: Vec<&Tensor> = [Some(&input), Some(&weight), bias.as_ref()].into_iter().flatten().collect();
                let gradients = Tensor::run_backward(&[(&result * gradient).sum(Kind::Float)], &leaves, false, false);
                (result.detach(), gradients)
            };
            let ((ours, our_gradients), (theirs, their_gradients)) = (run(true), run(false));
            assert_close(&ours, &theirs, "the result");
            for (found, expected) in our_gradients.iter().zip(&their_gradients) {
                assert_close(found, expected, "a gradient");
            }
        }
    }
}

#[test]
fn views_that_are_not_contiguous_go_through() {
    tch::manual_seed(2);
    let (input, weight) = (random(&[12, 6]).transpose(0, 1), random(&[12, 5]).transpose(0, 1));
    assert_close(&linear(&input, &weight, None), &input.linear::<&Tensor>(&weight, None), "the result");
}

#[test]
fn the_masked_loss_and_its_gradients_are_libtorchs() {
    tch::manual_seed(3);
    for (count, width, vocabulary) in [(5_i64, 8, 7), (76, 32, 1000), (1, 16, 33)] {
        // Logits up to a hundred: what a softmax without its maximum would not survive.
        let (rows, weight, bias) = (random(&[count, width]) * 8.0, random(&[vocabulary, width]), random(&[vocabulary]));
        let labels = Tensor::randint(vocabulary, [count], (Kind::Int64, Device::Cpu));
        let run = |ours: bool| {
            let [rows, weight, bias] = [&rows, &weight, &bias].map(leaf);
            let (loss, correct) = if ours {
                masked_loss(&rows, &weight, &bias, &labels)
            } else {
                let logits = rows.linear(&weight, Some(&bias));
                let correct = logits.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64);
                (logits.cross_entropy_loss::<&Tensor>(&labels, None, Reduction::Sum, -100, 0.0), correct)
            };
            let gradients = Tensor::run_backward(&[&loss * 0.37], &[&rows, &weight, &bias], false, false);
            (loss.detach(), correct.int64_value(&[]), gradients)
        };
        let ((ours, our_hits, our_gradients), (theirs, their_hits, their_gradients)) = (run(true), run(false));
        assert_close(&ours, &theirs, "the loss");
        assert_eq!(our_hits, their_hits);
        for (found, expected) in our_gradients.iter().zip(&their_gradients) {
            assert_close(found, expected, "a gradient");
        }
    }
}

#[test]
fn the_masked_loss_in_parts_is_that_of_the_whole() {
    tch::manual_seed(4);
    let (count, width, vocabulary) = (23_i64, 16, 500);
    let (rows, weight, bias) = (random(&[count, width]), random(&[vocabulary, width]), random(&[vocabulary]));
    let labels = Tensor::randint(vocabulary, [count], (Kind::Int64, Device::Cpu));
    let run = |most: i64, bfloat16: bool| {
        let [rows, weight, bias] = [&rows, &weight, &bias].map(leaf);
        let compute = || masked_loss_in_parts(&rows, &weight, &bias, &labels, most);
        let (loss, correct) = if bfloat16 { with_bfloat16(Device::Cpu, compute) } else { compute() };
        let gradients = Tensor::run_backward(&[&loss * 0.37], &[&rows, &weight, &bias], false, false);
        (loss.detach(), correct.int64_value(&[]), gradients)
    };
    for bfloat16 in [false, true] {
        let (whole, hits, whole_gradients) = run(count, bfloat16);
        // More parts than may add to a sum themselves, and a last one that is shorter.
        for most in [1, 4, 10, 22] {
            let (loss, found, gradients) = run(most, bfloat16);
            assert_close(&loss, &whole, "the loss");
            assert_eq!(found, hits);
            for (found, expected) in gradients.iter().zip(&whole_gradients) {
                let close = if bfloat16 { 1e-2 } else { 2e-6 };
                assert_within(found, expected, close, "a gradient");
            }
        }
    }
}

#[test]
fn logits_in_parts_never_exist_whole() {
    let (count, width, vocabulary) = (256_i64, 64, 4000);
    let [rows, weight, bias] =
        [&[count, width][..], &[vocabulary, width], &[vocabulary]].map(|shape| leaf(&random(shape)));
    let labels = Tensor::zeros([count], (Kind::Int64, Device::Cpu));
    let peak = |most| peak_memory(|| masked_loss_in_parts(&rows, &weight, &bias, &labels, most).0.backward()).1;
    let logits = (count * vocabulary * 4) as u64;
    let (whole, parts) = (peak(count), peak(16));
    assert!(whole > logits, "{whole} bytes hold no logits of {logits}");
    assert!(parts < logits * 3 / 4, "{parts} bytes, and all logits would be {logits}");
    // One row too many for one part makes two of one size.
    assert!(peak(count - 1) < whole, "{} bytes in two parts, {whole} in one", peak(count - 1));
    let without_gradient = tch::no_grad(|| peak_memory(|| masked_loss_in_parts(&rows, &weight, &bias, &labels, 16)).1);
    assert!(without_gradient < logits / 8, "{without_gradient} bytes for parts of {}", logits / 16);
}

#[test]
fn parts_leave_out_what_needs_no_gradient() {
    tch::manual_seed(5);
    let (rows, weight, bias) = (random(&[9, 8]), random(&[50, 8]), random(&[50]));
    let labels = Tensor::randint(50, [9], (Kind::Int64, Device::Cpu));
    let of_rows = |most| {
        let rows = leaf(&rows);
        let loss = masked_loss_in_parts(&rows, &weight, &bias, &labels, most).0;
        Tensor::run_backward(&[loss], &[&rows], false, false).remove(0)
    };
    assert_close(&of_rows(2), &of_rows(9), "a gradient with a frozen table");
    let of_table = |most| {
        let weight = leaf(&weight);
        let loss = masked_loss_in_parts(&rows, &weight, &bias, &labels, most).0;
        Tensor::run_backward(&[loss], &[&weight], false, false).remove(0)
    };
    assert_close(&of_table(2), &of_table(9), "a gradient of the table alone");
}

#[test]
#[should_panic(expected = "a label for each row")]
fn rows_without_a_label_are_refused() {
    let _ = masked_loss(&random(&[2, 4]), &random(&[9, 4]), &random(&[9]), &Tensor::from_slice(&[1_i64]));
}

#[test]
#[should_panic(expected = "label 9 is outside of a vocabulary of 9")]
fn a_label_outside_of_the_vocabulary_is_refused() {
    let _ = masked_loss(&random(&[1, 4]), &random(&[9, 4]), &random(&[9]), &Tensor::from_slice(&[9_i64]));
}

#[test]
fn what_is_not_finite_stays_visible_in_the_loss() {
    let rows = Tensor::full([2, 4], f64::NAN, FLOAT);
    let (loss, _) = masked_loss(&rows, &random(&[9, 4]), &random(&[9]), &Tensor::from_slice(&[1_i64, 2]));
    assert!(!loss.double_value(&[]).is_finite());
}

#[test]
fn dropout_follows_the_seed_and_not_the_threads() {
    let input = random(&[1 << 16]);
    let run = |seed, threads| {
        tch::set_num_threads(threads);
        tch::manual_seed(seed);
        (dropout(&input, 0.1), dropout(&input, 0.1))
    };
    let ((first, second), (again, _), (other, _)) = (run(4, 1), run(4, 2), run(5, 1));
    assert_eq!(first, again);
    assert_ne!(first, second, "two calls share their mask");
    assert_ne!(first, other, "two seeds share their mask");
}

#[test]
fn dropout_drops_its_share_everywhere_and_keeps_the_mean() {
    const COUNT: i64 = 1 << 20;
    tch::manual_seed(6);
    let input = Tensor::ones([COUNT], FLOAT).set_requires_grad(true);
    for probability in [0.1, 0.5, 0.9] {
        let result = dropout(&input, probability);
        let dropped = result.eq(0.0).to_kind(Kind::Float).detach();
        // Five standard deviations of a binomial share, over all, and over each position modulo 256.
        let bound = |count: i64| 5.0 * (probability * (1.0 - probability) / count as f64).sqrt();
        let share = dropped.mean(Kind::Float).double_value(&[]);
        assert!((share - probability).abs() < bound(COUNT), "{share} instead of {probability}");
        let columns = dropped.view([-1, 256]).mean_dim(0, false, Kind::Float);
        let worst = (columns - probability).abs().max().double_value(&[]);
        assert!(worst < bound(COUNT / 256), "a column is off by {worst}");
        // Neighbours are independent: both dropped with the square of the probability.
        let both = (dropped.narrow(0, 0, COUNT - 1) * dropped.narrow(0, 1, COUNT - 1)).mean(Kind::Float);
        assert!((both.double_value(&[]) - probability * probability).abs() < 2.0 * bound(COUNT));
        // What is kept is scaled, and the gradient meets the same mask.
        let gradient = Tensor::run_backward(&[result.sum(Kind::Float)], &[&input], false, false).remove(0);
        assert_eq!(gradient, result.detach());
        assert!((result.max().double_value(&[]) - 1.0 / (1.0 - probability)).abs() < 1e-5);
    }
}

#[test]
fn dropout_of_nothing_is_the_identity() {
    let input = random(&[100]);
    assert_eq!(dropout(&input, 0.0), input);
}

/// The gradient of `result · weights` (all 1: in strides of 0; by columns: in other strides) with regard to `input`.
fn slope(result: &Tensor, input: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let value = match weights {
        Some(weights) => (result.transpose(0, 1) * weights.transpose(0, 1)).sum(result.kind()),
        None => result.sum(result.kind()),
    };
    Tensor::run_backward(&[value], &[input], true, false).remove(0)
}

#[test]
fn gelu_is_what_it_is_in_float64() {
    tch::manual_seed(11);
    // From where it is nothing to where it is the identity; and an odd number of elements, in other strides.
    let spread = random(&[801, 33]) * 4.0;
    let turned = Tensor::linspace(-14.0, 14.0, 99_999, FLOAT).view([3, -1]).transpose(0, 1);
    for input in [spread, turned] {
        let (input, exact) = (leaf(&input), leaf(&input.to_kind(Kind::Double)));
        let weights = Tensor::arange(input.numel() as i64, FLOAT).view(input.size().as_slice()).sin();
        let (result, wanted) = (gelu(&input), exact.gelu("none"));
        let off = |ours: &Tensor, right: &Tensor| (ours.to_kind(Kind::Double) - right).abs().max().double_value(&[]);
        assert!(off(&result, &wanted) < 8e-7, "values are off by {}", off(&result, &wanted));
        for weights in [None, Some(weights)] {
            let doubled = weights.as_ref().map(|weights| weights.to_kind(Kind::Double));
            let found = off(&slope(&result, &input, weights.as_ref()), &slope(&wanted, &exact, doubled.as_ref()));
            assert!(found < 5e-7, "slopes are off by {found}");
        }
        // In the tail, too, where 1 + erf(x) has lost its digits.
        let exact = exact.detach();
        let wanted = &exact * (&exact * -std::f64::consts::FRAC_1_SQRT_2).erfc() * 0.5;
        for (from, most) in [(-5.0, 1e-6), (-13.0, 6e-6)] {
            let tail = input.ge(from).logical_and(&input.lt(0.0));
            let found = ((result.detach().to_kind(Kind::Double) - &wanted) / &wanted).abs().masked_select(&tail).max();
            assert!(found.double_value(&[]) < most, "{} of the value from {from} on", found.double_value(&[]));
        }
    }
}

#[test]
fn gelu_ends_as_it_should() {
    let ends = leaf(&Tensor::from_slice(&[f32::INFINITY, 3e38, 1e30, 0.0, -1e30, -3e38, f32::NAN]));
    let (values, slopes) = (gelu(&ends), slope(&gelu(&ends).view([7, 1]), &ends, None));
    let numbers = |of: &Tensor| Vec::<f32>::try_from(of).unwrap();
    assert_eq!(numbers(&values)[..4], [f32::INFINITY, 3e38, 1e30, 0.0]);
    assert_eq!(numbers(&slopes)[..3], [1.0, 1.0, 1.0]);
    assert!((numbers(&slopes)[3] - 0.5).abs() < 1e-6);
    assert!(numbers(&values)[4..6].iter().chain(&numbers(&slopes)[4..6]).all(|value| value.abs() < 1e-6));
    assert!(numbers(&values)[6].is_nan() && numbers(&slopes)[6].is_nan());
}

#[test]
fn gelu_turns_a_gradient_where_it_lies_if_nobody_else_has_it() {
    let input = leaf(&random(&[1024, 1024]));
    let slopes = |of: &Tensor| Tensor::run_backward(&[of.sum(Kind::Float)], &[&input], true, false).remove(0);
    let tripled = gelu(&input) * 3.0;
    let (alone, most) = peak_memory(|| slopes(&tripled));
    assert!(most < 5 << 20, "{most} bytes, and the gradient has 4 MiB");

    // What a dense layer hands on is nobody else's, either.
    let layer = linear(&gelu(&input), &random(&[1024, 1024]), None);
    let (_, most) = peak_memory(|| slopes(&layer));
    assert!(most < 9 << 20, "{most} bytes, and the gradients of sum and layer have 4 MiB each");

    // The same gradient goes to `other`, which is made earlier, so its turn comes later.
    let earlier = leaf(&random(&[1024, 1024]));
    let other = &earlier * 5.0;
    let sum = (gelu(&input) + other) * 3.0;
    let both = Tensor::run_backward(&[sum.sum(Kind::Float)], &[&input, &earlier], true, false);
    assert_eq!(both[0], alone);
    assert_eq!(both[1], Tensor::full([1024, 1024], 15.0, FLOAT));
}

#[test]
fn gelu_refuses_a_second_derivative() {
    let input = leaf(&random(&[4, 4]));
    let slope = Tensor::f_run_backward(&[gelu(&input).sum(Kind::Float)], &[&input], true, true);
    let error = slope.unwrap_err().to_string();
    assert!(error.contains("gelu has no second derivative"), "{error}");
}

#[test]
fn gelu_is_gated_by_what_lies_beside_it() {
    tch::manual_seed(12);
    for shape in [vec![7, 5, 66], vec![300, 128], vec![2, 6], vec![0, 4], vec![3, 0]] {
        let input = leaf(&(random(&shape) * 3.0));
        let halves = input.chunk(2, -1);
        let (result, wanted) = (gated_gelu(&input), gelu(&halves[0]) * &halves[1]);
        assert_eq!(result, wanted, "{shape:?}");
        for weights in [None, Some(random(&result.size()))] {
            let (found, right) = (slope(&result, &input, weights.as_ref()), slope(&wanted, &input, weights.as_ref()));
            // The same factors in another order.
            assert!(found.allclose(&right, 1e-6, 1e-6, false), "{shape:?}");
        }
    }
}

#[test]
#[should_panic(expected = "gated_gelu of rows of 7")]
fn a_row_that_cannot_be_halved_is_refused() {
    let _ = gated_gelu(&random(&[2, 7]));
}

#[test]
fn gelu_does_not_follow_the_threads() {
    let input = leaf(&random(&[1 << 10, 128]));
    let run = |threads| {
        tch::set_num_threads(threads);
        let (alone, gated) = (gelu(&input), gated_gelu(&input));
        let slopes = (slope(&alone, &input, None), slope(&gated, &input, None));
        (alone, gated, slopes)
    };
    assert_eq!(run(1), run(2));
}

/// Queries, keys and values side by side, and the bias of a batch whose second sequence ends earlier.
fn heads(batch: i64, length: i64, heads: i64, width: i64) -> (Tensor, Tensor) {
    let bias = Tensor::zeros([batch, 1, 1, length], FLOAT);
    let _ = bias.narrow(0, batch - 1, 1).narrow(3, length / 2, length - length / 2).fill_(-1e30);
    (random(&[batch, length, 3, heads, width]), bias)
}

/// What attention is by definition, with `dropped` for its dropout.
fn attention_by_hand(packed: &Tensor, bias: Option<&Tensor>, dropped: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let size = packed.size();
    let heads = packed.permute([2, 0, 3, 1, 4]);
    let mut scores = (heads.get(0) * (size[4] as f64).powf(-0.5)).matmul(&heads.get(1).transpose(2, 3));
    if let Some(bias) = bias {
        scores += bias;
    }
    let context = dropped(&scores.softmax(-1, Kind::Float)).matmul(&heads.get(2));
    context.transpose(1, 2).reshape([size[0], size[1], size[3] * size[4]])
}

#[test]
fn attention_and_its_gradients_are_what_they_are_by_definition() {
    tch::manual_seed(7);
    for (shape, probability) in [((2, 17, 3, 8), 0.0), ((3, 64, 2, 16), 0.1), ((1, 128, 4, 64), 0.5)] {
        let (packed, bias) = heads(shape.0, shape.1, shape.2, shape.3);
        for bias in [None, Some(&bias)] {
            let run = |ours: bool| {
                let packed = leaf(&packed);
                tch::manual_seed(8);
                let result = if ours {
                    attention(&packed, bias, probability)
                } else {
                    // The same mask, since it follows the seed and the place alone.
                    attention_by_hand(&packed, bias, |weights| dropout(weights, probability))
                };
                let gradient = Tensor::arange(result.numel() as i64, FLOAT).reshape(result.size()).sin();
                let gradients =
                    Tensor::run_backward(&[(&result * gradient).sum(Kind::Float)], &[&packed], false, false);
                (result.detach(), gradients[0].shallow_clone())
            };
            let ((ours, our_gradient), (theirs, their_gradient)) = (run(true), run(false));
            assert_close(&ours, &theirs, "attention");
            assert_close(&our_gradient, &their_gradient, "its gradient");
        }
    }
}

#[test]
fn attention_does_not_follow_the_threads() {
    tch::manual_seed(9);
    let (packed, bias) = heads(2, 32, 4, 16);
    let run = |threads| {
        tch::set_num_threads(threads);
        tch::manual_seed(10);
        let packed = leaf(&packed);
        let result = attention(&packed, Some(&bias), 0.2);
        let gradients = Tensor::run_backward(&[(&result * &result).sum(Kind::Float)], &[&packed], false, false);
        (result.detach(), gradients[0].shallow_clone())
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn embedding_and_its_gradient_are_libtorchs() {
    tch::manual_seed(11);
    let table = random(&[50, 24]);
    let ids = Tensor::randint(20, [6, 9], (Kind::Int64, Device::Cpu));
    let run = |ours: bool| {
        let table = leaf(&table);
        let rows = if ours { embedding(&table, &ids) } else { Tensor::embedding(&table, &ids, -1, false, false) };
        let gradients = Tensor::run_backward(&[(&rows * &rows).sum(Kind::Float)], &[&table], false, false);
        (rows.detach(), gradients[0].shallow_clone())
    };
    assert_eq!(run(true).0, run(false).0);
    assert_close(&run(true).1, &run(false).1, "the table's gradient");
}

#[test]
fn a_tensor_lies_where_one_of_its_size_has_been() {
    let make = || Tensor::empty([25_000], FLOAT);
    let found = (0..10).any(|_| {
        let (first, _behind) = (make(), make());
        let place = first.data_ptr();
        drop(first);
        make().data_ptr() == place
    });
    assert!(found, "libtorch's own allocator is in use");
}

#[test]
fn tensors_are_aligned_to_64_bytes() {
    let tensors: Vec<_> = (1..300).map(|bytes| Tensor::ones([bytes], (Kind::Uint8, Device::Cpu))).collect();
    assert!(tensors.iter().all(|tensor| tensor.data_ptr().addr().is_multiple_of(64)));
}
