use super::dense::quantize;
use super::*;
use crate::heads::Head;
use config::ModelConfig;

fn model() -> Model {
    let config = ModelConfig {
        layers: Some(2),
        hidden: Some(64),
        heads: Some(4),
        intermediate: Some(128),
        initializer_range: Some(0.2),
        ..ModelConfig::default()
    };
    Model::new(&config.shape(104, 32), Head::MaskedLm, 3, Device::Cpu).unwrap()
}

#[test]
fn a_dense_layer_in_int8_has_a_quarter_of_the_bytes() {
    let model = model();
    let export = |numbers| export(&model, 100, numbers, &[]).unwrap();
    let float = export(Numbers::Float);
    assert_eq!(float.dense_float, float.dense_stored);
    let whole = export(Numbers::Int8 { bits: 8, tables: false });
    let share = whole.dense_stored as f64 / whole.dense_float as f64;
    assert!((0.25..0.28).contains(&share), "{share}");
    // Four bytes for each of 100 scales and words beside the tables: all that is left is small.
    let tables = export(Numbers::Int8 { bits: 8, tables: true });
    assert!(tables.bytes.len() < whole.bytes.len() && whole.bytes.len() < float.bytes.len());
}

#[test]
fn rounding_is_off_by_half_a_scale_and_zero_stays_zero() {
    let weight = Tensor::from_slice(&[0.5f32, -1.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]).view([2, 4]);
    for bits in [7, 8] {
        let (whole, scales) = quantize(&weight, bits);
        assert_eq!((whole.kind(), scales.size()), (Kind::Int8, vec![2, 1]));
        let greatest = whole.to_kind(Kind::Int64).abs().max().int64_value(&[]);
        assert_eq!(greatest, (1 << (bits - 1)) - 1);
        let again = whole.to_kind(Kind::Float) * &scales;
        let off = ((again - &weight).abs() / &scales).max().double_value(&[]);
        assert!(off <= 0.5 + 1e-4, "{off}");
        assert_eq!(whole.get(1).abs().sum(Kind::Int64).int64_value(&[]), 0);
    }
}

#[test]
fn what_pads_the_vocabulary_is_left_out() {
    let model = model();
    let network = Network::new(&model, 100, Numbers::Float);
    assert_eq!(network.parameter("bert.embeddings.word_embeddings.weight").size()[0], 100);
    assert_eq!(network.parameter("cls.predictions.bias").size(), [100]);
    assert_eq!(model.shape().vocabulary, 104);
}
