//! Weights into a model, whatever the writer called them.

use crate::error::ModelError;
use crate::layout::Entry;
use crate::names::{self, EncoderNames, HeadNames};
use config::{Architecture, ModelShape, VOCABULARY_MULTIPLE};
use std::collections::BTreeMap;
use tch::{Kind, Tensor, no_grad};

/// What happens where the weights lack parameters of a head (the encoder's must always be there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An error: for a checkpoint of the same model.
    Refuse,
    /// They keep their values: for a fine-tuning that starts from another model's encoder.
    Keep,
}

/// What was loaded and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that were set.
    pub loaded: usize,
    /// Parameters of heads that keep their values.
    pub missing: Vec<String>,
    /// Tensors that this model has no use for.
    pub unexpected: Vec<String>,
    /// Parameters of heads that keep their values because the shape differs: "name: [found], not [expected]".
    pub shape_mismatches: Vec<String>,
}

pub(crate) fn load(
    shape: &ModelShape,
    entries: &[Entry],
    targets: &[Tensor],
    tensors: &[(String, Tensor)],
    missing: Missing,
) -> Result<LoadReport, ModelError> {
    let mut found = canonical(shape.architecture, tensors)?;
    let mut report = LoadReport::default();
    let mut copies = Vec::new();
    let mut broken = Vec::new();
    // Adapters are no part of what others write.
    for (entry, target) in entries.iter().zip(targets).filter(|(entry, _)| !entry.adapter) {
        let keep = entry.head && missing == Missing::Keep;
        match found.remove(&entry.name) {
            None if keep => report.missing.push(entry.name.clone()),
            None => broken.push(format!("{} is missing", entry.name)),
            Some(source) if source.size() == entry.size => copies.push((target.shallow_clone(), source)),
            Some(source) if missing == Missing::Keep && is_unpadded(entry, source) => {
                copies.push((target.narrow(0, 0, source.size()[0]), source));
            }
            Some(source) if is_word_table(&entry.name) && source.dim() == 2 && source.size()[1] == entry.size[1] => {
                return Err(ModelError::Vocabulary { expected: entry.size[0], found: source.size()[0] });
            }
            Some(source) => {
                let text = format!("{}: {:?}, not {:?}", entry.name, source.size(), entry.size);
                if keep { report.shape_mismatches.push(text) } else { broken.push(text) }
            }
        }
    }
    if !broken.is_empty() {
        let of_head =
            |text: &String| entries.iter().any(|it| it.head && text.split([' ', ':']).next() == Some(&it.name));
        let advice = if broken.iter().all(of_head) {
            ". The encoder is there, its head is not: these weights are of another class than `architectures` in \
             config.json says. Correct it there (BertModel: the encoder alone), or fine-tune from them, which draws the \
             head anew"
        } else {
            ""
        };
        return Err(ModelError::Weights(format!("{}{advice}", summary(&broken))));
    }
    report.unexpected = found.into_keys().collect();
    report.loaded = copies.len();
    no_grad(|| {
        for (mut target, source) in copies {
            target.f_copy_(source)?;
        }
        Ok(report)
    })
}

/// Whether `source` has a row for each token, and `entry` the same rounded up to the multiple that the default of
/// `model.vocabulary` is (an export has no rows that no token uses). The rest keep their values.
fn is_unpadded(entry: &Entry, source: &Tensor) -> bool {
    let of_vocabulary = is_word_table(&entry.name) || is_vocabulary_bias(&entry.name);
    let (found, expected) = (source.size(), &entry.size);
    of_vocabulary
        && found.len() == expected.len()
        && found[1..] == expected[1..]
        && (found[0]..found[0] + VOCABULARY_MULTIPLE).contains(&expected[0])
        && expected[0] % VOCABULARY_MULTIPLE == 0
}

fn is_vocabulary_bias(name: &str) -> bool {
    [
        "cls.predictions.bias",
        "decoder.bias",
        "predictions.bias",
        "generator_lm_head.bias",
        "vocab_projector.bias",
        "lm_head.bias",
    ]
    .contains(&name)
}

fn is_word_table(name: &str) -> bool {
    name.ends_with(".word_embeddings.weight") || name.ends_with(".tok_embeddings.weight")
}

/// The first few, and how many more.
fn summary(problems: &[String]) -> String {
    let shown = problems.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// The tensors under the names of the layout: TensorFlow's gamma and beta renamed, a missing prefix added, buffers and
/// the second copy of tied weights dropped.
fn canonical(
    architecture: Architecture,
    tensors: &[(String, Tensor)],
) -> Result<BTreeMap<String, &Tensor>, ModelError> {
    let embeddings = EncoderNames::of(architecture).map_or("", |names| names.embeddings);
    let buffers = ["position_ids", "token_type_ids"].map(|buffer| format!("{embeddings}.{buffer}"));
    let mut found: BTreeMap<String, &Tensor> = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = rename(architecture, name);
        if !buffers.contains(&name) {
            found.insert(name, tensor);
        }
    }
    let heads = HeadNames::of(architecture);
    if let Some(decoder) = found.remove(&format!("{}.weight", heads.decoder))
        && let Some(words) = found.get(&names::words(architecture))
        && (decoder.size() != words.size() || !decoder.to_kind(Kind::Float).equal(&words.to_kind(Kind::Float)))
    {
        return Err(ModelError::Unsupported(
            "the weights have an output layer of their own; only one tied to the word embeddings is supported".into(),
        ));
    }
    if let Some(bias) = found.remove(&format!("{}.bias", heads.decoder)) {
        found.entry(heads.bias.to_owned()).or_insert(bias);
    }
    Ok(found)
}

fn rename(architecture: Architecture, name: &str) -> String {
    let (prefix, bare) = match architecture {
        Architecture::Bert => ("bert.", &["embeddings.", "encoder.", "pooler."][..]),
        Architecture::Modern => ("model.", &["embeddings.", "layers.", "final_norm."][..]),
        Architecture::Albert => ("albert.", &["embeddings.", "encoder.", "pooler."][..]),
        Architecture::Electra => ("electra.", &["embeddings.", "embeddings_project.", "encoder."][..]),
        Architecture::Distilbert => ("distilbert.", &["embeddings.", "transformer."][..]),
        Architecture::Roberta => ("roberta.", &["embeddings.", "encoder.", "pooler."][..]),
    };
    let name = if bare.iter().any(|start| name.starts_with(start)) { format!("{prefix}{name}") } else { name.into() };
    if let Some(stem) = name.strip_suffix("LayerNorm.gamma") {
        format!("{stem}LayerNorm.weight")
    } else if let Some(stem) = name.strip_suffix("LayerNorm.beta") {
        format!("{stem}LayerNorm.bias")
    } else {
        name
    }
}
