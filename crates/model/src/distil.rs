//! DistilBERT (Sanh et al. 2019; research_projects/distillation): a student that starts from some of its teacher's layers
//! and learns from what the teacher predicts.

use crate::error::ModelError;
use crate::names::{EncoderNames, HeadNames};
use config::Architecture;
use tch::{Kind, Tensor};

/// The teacher's weights (under the names of `teacher`) under those of a student of architecture `student`, whose layer n
/// is the teacher's layer `layers[n]`. What a student has no use for is left out: the other layers, and for `distilbert`
/// segments and pooler.
///
/// # Errors
/// If the two are not made of the same layers.
pub fn student_weights(
    teacher: Architecture,
    student: Architecture,
    tensors: &[(String, Tensor)],
    layers: &[i64],
) -> Result<Vec<(String, Tensor)>, ModelError> {
    let (Some(from), Some(to)) = (EncoderNames::of(teacher), EncoderNames::of(student)) else {
        return Err(ModelError::Unsupported(format!("a {student:?} cannot start from the layers of a {teacher:?}")));
    };
    let same = [
        (from.layer.query, to.layer.query),
        (from.layer.key, to.layer.key),
        (from.layer.value, to.layer.value),
        (from.layer.attention_output, to.layer.attention_output),
        (from.layer.attention_norm, to.layer.attention_norm),
        (from.layer.intermediate, to.layer.intermediate),
        (from.layer.output, to.layer.output),
        (from.layer.output_norm, to.layer.output_norm),
    ];
    let mut prefixes = vec![(format!("{}.", from.embeddings), format!("{}.", to.embeddings))];
    for (index, layer) in layers.iter().enumerate() {
        for (theirs, ours) in same {
            let theirs = format!("{}.{theirs}.", from.prefix(*layer));
            prefixes.push((theirs, format!("{}.{ours}.", to.prefix(index as i64))));
        }
    }
    let (theirs, ours) = (HeadNames::of(teacher), HeadNames::of(student));
    prefixes.push((format!("{}.", theirs.dense), format!("{}.", ours.dense)));
    prefixes.push((format!("{}.", theirs.norm), format!("{}.", ours.norm)));
    prefixes.push((theirs.bias.to_owned(), ours.bias.to_owned()));
    if let (Some(theirs), Some(ours)) = (theirs.pooler, ours.pooler) {
        prefixes.push((format!("{theirs}."), format!("{ours}.")));
    }
    let mut taken = Vec::new();
    for (name, tensor) in tensors {
        for (theirs, ours) in &prefixes {
            if let Some(rest) = name.strip_prefix(theirs.as_str()) {
                taken.push((format!("{ours}{rest}"), tensor.shallow_clone()));
            }
        }
    }
    if student == Architecture::Distilbert {
        taken.retain(|(name, _)| !name.ends_with(".token_type_embeddings.weight"));
    }
    Ok(taken)
}

/// How far the student's predictions are from the teacher's, in nats, summed over rows: KL(teacher ‖ student), both at
/// `temperature`. `[rows, vocabulary]` both; a float32 scalar, differentiable in the student.
pub fn divergence_sum(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    let ours = (student / temperature).log_softmax(-1, Kind::Float);
    let theirs = (teacher / temperature).log_softmax(-1, Kind::Float);
    ours.kl_div(&theirs, tch::Reduction::Sum, true)
}

/// 1 − cosine of the student's and the teacher's hidden states, summed over the chosen rows. `[batch, length, hidden]`
/// both, `rows` flat in batch × length; as PyTorch's `CosineEmbeddingLoss` with a target of 1.
pub fn cosine_sum(student: &Tensor, teacher: &Tensor, rows: &Tensor) -> Tensor {
    let chosen = |hidden: &Tensor| {
        let width = hidden.size()[2];
        hidden.reshape([-1, width]).index_select(0, rows).to_kind(Kind::Float)
    };
    let (ours, theirs) = (chosen(student), chosen(teacher));
    let target = Tensor::ones([ours.size()[0]], (Kind::Float, ours.device()));
    Tensor::cosine_embedding_loss(&ours, &theirs, &target, 0.0, tch::Reduction::Sum)
}
