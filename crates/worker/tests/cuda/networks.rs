//! Both architectures.

use crate::GPU;
use config::{Architecture, ModelConfig};
use kernels::fixed_point::{self, Turn};
use model::{Execution, Head, Input, Model};
use tch::{Device, Kind, Tensor};

/// The loss, and all gradients in the parameters' order, in main memory.
fn run(architecture: Architecture, device: Device, bfloat16: bool) -> (f64, Vec<Tensor>) {
    let config = ModelConfig { architecture, vocabulary: Some(512), dropout: Some(0.0), ..ModelConfig::default() };
    let head = if architecture == Architecture::Bert { Head::PreTraining } else { Head::MaskedLm };
    let model = Model::new(&config.shape(512, 32), head, 3, device).unwrap();
    let forward = || {
        let ids = (Tensor::arange(8 * 32, (Kind::Int64, device)) * 37).remainder(500).view([8, 32]) + 5;
        let mask = Tensor::ones([8, 32], (Kind::Bool, device));
        let _ = mask.narrow(1, 27, 5).narrow(0, 2, 3).fill_(0);
        let hidden = model.encode(&Input { ids, segments: None, mask: Some(mask) }, true);
        let positions = Tensor::arange_start_step(1, 8 * 32, 7, (Kind::Int64, device));
        let labels = (&positions * 11).remainder(500) + 7;
        let (sum, _) = model.mlm_loss_sum(&hidden, &positions, &labels);
        let mut loss = sum / positions.numel() as f64;
        if architecture == Architecture::Bert {
            loss += model.nsp_logits(&hidden).square().mean(Kind::Float);
        }
        loss
    };
    let loss = if bfloat16 { kernels::with_bfloat16(device, forward) } else { forward() };
    loss.backward();
    let gradients = model.parameters().iter().map(|parameter| parameter.tensor.grad().to_device(Device::Cpu)).collect();
    (loss.double_value(&[]), gradients)
}

/// ‖found − expected‖ / ‖expected‖ over all gradients together.
fn far(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let norm =
        |tensors: Vec<Tensor>| tensors.iter().map(|tensor| tensor.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
    let expected_norm = norm(expected.iter().map(Tensor::shallow_clone).collect());
    norm(found.iter().zip(expected).map(|(found, expected)| found - expected).collect()) / expected_norm
}

#[test]
#[ignore = "needs a CUDA device"]
fn loss_and_gradients_are_those_of_the_cpu() {
    kernels::deterministic_algorithms().unwrap();
    for architecture in [Architecture::Bert, Architecture::Modern] {
        let (here, there) = (run(architecture, Device::Cpu, false), run(architecture, GPU, false));
        assert!((here.0 - there.0).abs() < 1e-4, "{architecture:?}: {} and {}", here.0, there.0);
        let off = far(&there.1, &here.1);
        assert!(off < 1e-4, "{architecture:?}: {off}");
        let short = run(architecture, GPU, true);
        assert!((here.0 - short.0).abs() < 2e-2, "{architecture:?}: {} and {}", here.0, short.0);
        let off = far(&short.1, &here.1);
        assert!(off < 5e-2, "{architecture:?}: {off}");
        for (bfloat16, before) in [(false, &there), (true, &short)] {
            let again = run(architecture, GPU, bfloat16);
            let same = again.1.iter().zip(&before.1).all(|(a, b)| a.equal(b));
            assert!(same && again.0 == before.0, "{architecture:?}: other bits the second time");
        }
    }
}

/// Three steps of two micro-batches of different shapes, with dropout and weights that change, and with layers recorded or not:
/// the losses, the exact sums, and how many recordings there are.
fn steps(architecture: Architecture, bfloat16: bool, cuda_graphs: bool) -> (Vec<f64>, Vec<Tensor>, usize) {
    let config = ModelConfig { architecture, vocabulary: Some(512), dropout: Some(0.1), ..ModelConfig::default() };
    let mut model = Model::new(&config.shape(512, 32), Head::MaskedLm, 3, GPU).unwrap();
    model.set_execution(Execution { cuda_graphs, ..Execution::default() });
    let tensors: Vec<Tensor> = model.parameters().into_iter().map(|parameter| parameter.tensor).collect();
    let leaves: Vec<&Tensor> = tensors.iter().collect();
    let mut offsets = vec![0];
    leaves.iter().for_each(|leaf| offsets.push(offsets[offsets.len() - 1] + leaf.numel()));
    let total = offsets.pop().unwrap() as i64;
    let sum = Tensor::zeros([total], (Kind::Int64, GPU));
    let (mut losses, mut sums) = (Vec::new(), Vec::new());
    for step in 0..3 {
        for (rows, masked, turn) in [(8, false, Turn::First), (4, true, Turn::Later)] {
            let ids = ((Tensor::arange(rows * 32, (Kind::Int64, GPU)) + step) * 37).remainder(500).view([rows, 32]) + 5;
            let mask = masked.then(|| {
                let mask = Tensor::ones([rows, 32], (Kind::Bool, GPU));
                let _ = mask.narrow(1, 27 - step, 5 + step).narrow(0, 1, 2).fill_(0);
                mask
            });
            tch::manual_seed(2 * step + i64::from(masked));
            let forward = || {
                let hidden = model.encode(&Input { ids, segments: None, mask }, true);
                let positions = Tensor::arange_start_step(1, rows * 32, 7, (Kind::Int64, GPU));
                let (sum, _) = model.mlm_loss_sum(&hidden, &positions, &((&positions * 11).remainder(500) + 7));
                sum / positions.numel() as f64
            };
            let loss = if bfloat16 { kernels::with_bfloat16(GPU, forward) } else { forward() };
            assert_eq!(fixed_point::backward(&loss, &leaves, &offsets, &sum, 32, turn, |_| ()), 0);
            losses.push(loss.double_value(&[]));
        }
        let gradients = Tensor::zeros([total], (Kind::Float, GPU));
        fixed_point::to_float(&sum, 0, &gradients, 32);
        for (leaf, offset) in leaves.iter().zip(&offsets) {
            let gradient = gradients.narrow(0, *offset as i64, leaf.numel() as i64).view_as(leaf);
            let _ = tch::no_grad(|| leaf.shallow_clone().g_sub_(&(gradient * 0.1)));
        }
        sums.push(sum.to_device(Device::Cpu));
    }
    (losses, sums, model.recordings())
}

#[test]
#[ignore = "needs a CUDA device"]
fn recorded_layers_have_the_bits_of_the_layers() {
    kernels::deterministic_algorithms().unwrap();
    for architecture in [Architecture::Bert, Architecture::Modern, Architecture::Albert] {
        for bfloat16 in [false, true] {
            let case = format!("{architecture:?}, bfloat16: {bfloat16}");
            let (losses, sums, none) = steps(architecture, bfloat16, false);
            let recorded = steps(architecture, bfloat16, true);
            assert_eq!((none, recorded.2), (0, 2), "{case}: a recording for each shape");
            assert_eq!(recorded.0, losses, "{case}");
            for (step, (sum, recorded)) in sums.iter().zip(&recorded.1).enumerate() {
                let off = (sum - recorded).abs().max().int64_value(&[]) as f64 * f64::from(-32).exp2();
                assert!(sum.equal(recorded), "{case}, step {step}: gradients differ by up to {off:e}");
            }
        }
    }
}
