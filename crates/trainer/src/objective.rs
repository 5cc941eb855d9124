//! From a micro-batch to what is learned from it: sums over tokens or samples, never means.

pub(crate) mod tasks;

use crate::losses::{Counted, Loss, span_words};
use crate::teacher::Teacher;
use crate::tensors::sent;
use config::{CheckedConfig, DistillOver, ModelShape, ObjectiveKind, Precision};
use corpus::{Batch, IGNORED, Labels};
use model::{Boundaries, Head, Input, Model};
use tch::{Device, Kind, Reduction, Tensor};

/// What a batch gives to each loss of the objective.
pub(crate) struct Sums {
    /// Alongside [`losses`].
    pub losses: Vec<LossSum>,
    /// `classify` and `tag`: the labels and the predictions, flat, ignored ones included.
    pub answers: Option<(Tensor, Tensor)>,
    /// What the model says where that is no label. Regression: `[samples]`; `answer`: the scores of an answer's first and
    /// last token, `[samples, length, 2]`.
    pub outputs: Option<Tensor>,
}

/// One loss over a batch.
pub(crate) struct LossSum {
    /// In nats: a float32 scalar that can be differentiated.
    pub loss: Tensor,
    /// Right answers (an int64 scalar), where there are any.
    pub correct: Option<Tensor>,
}

/// The losses that `config` adds up.
pub(crate) fn losses(config: &CheckedConfig) -> Vec<Loss> {
    let mlm = Loss::new("mlm", Counted::MaskedWords);
    match config.objective.kind {
        ObjectiveKind::MlmNsp => vec![mlm, Loss::new("nsp", Counted::Pairs)],
        ObjectiveKind::Mlm if config.objective.span_boundary => {
            vec![mlm, Loss::new("span_boundary", Counted::SpanWords)]
        }
        ObjectiveKind::Mlm => vec![mlm],
        ObjectiveKind::MlmSop => vec![mlm, Loss::new("sop", Counted::Pairs)],
        ObjectiveKind::ReplacedTokens => {
            let weight = config.objective.discriminator_weight;
            vec![mlm, Loss { weight, ..Loss::new("replaced", Counted::Tokens) }]
        }
        ObjectiveKind::Distill => {
            let distill = config.distill.as_ref().expect("checked: there is a teacher");
            let over = match distill.over {
                DistillOver::Tokens => Counted::Tokens,
                DistillOver::Masked => Counted::MaskedWords,
            };
            let divergence = distill.divergence_weight * distill.temperature.powi(2);
            vec![
                Loss { weight: distill.mlm_weight, ..mlm },
                Loss::distance("divergence", over, divergence),
                Loss::distance("cosine", Counted::Tokens, distill.cosine_weight),
            ]
        }
        // Numbers are neither right nor wrong.
        ObjectiveKind::Classify if config.objective.regression => vec![Loss::distance("", Counted::Labels, 1.0)],
        ObjectiveKind::Classify
        | ObjectiveKind::Tag
        | ObjectiveKind::Answer
        | ObjectiveKind::Match
        | ObjectiveKind::Cloze
        | ObjectiveKind::Choose => vec![Loss::new("", Counted::Labels)],
    }
}

/// How losses are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Computation {
    precision: Precision,
    /// What cosines are multiplied by.
    similarity_scale: f64,
}

impl Computation {
    /// As the config has it.
    pub fn of(config: &CheckedConfig) -> Self {
        Self {
            precision: config.run.precision,
            similarity_scale: config.objective.similarity_scale.unwrap_or(SIMILARITY_SCALE),
        }
    }
}

/// That of sentence-transformers.
const SIMILARITY_SCALE: f64 = 20.0;

/// Runs the model on a batch.
pub(crate) fn forward(
    (model, teacher): (&Model, Option<&Teacher>),
    batch: &Batch,
    computation: Computation,
    device: Device,
    train: bool,
) -> Sums {
    let sums = || sums(model, teacher, batch, device, train, computation.similarity_scale);
    match computation.precision {
        Precision::Float32 => sums(),
        Precision::Bfloat16 => kernels::with_bfloat16(device, sums),
    }
}

fn sums(
    model: &Model,
    teacher: Option<&Teacher>,
    batch: &Batch,
    device: Device,
    train: bool,
    similarity_scale: f64,
) -> Sums {
    let shape = [batch.samples as i64, batch.sequence_length as i64];
    let input = Input {
        ids: sent(&batch.ids, device).view(shape),
        segments: batch.segment_ids.as_ref().map(|ids| sent(ids, device).view(shape)),
        mask: batch.mask.as_ref().map(|mask| sent(mask, device).view(shape)),
    };
    if let (Head::ReplacedTokens { .. }, Labels::Masked { positions, ids, .. }) = (model.head(), &batch.labels) {
        let positions = sent(positions, device);
        let ids = sent(ids, device);
        return replaced(model, &input, &positions, &ids, train);
    }
    let hidden = model.encode(&input, train);
    match &batch.labels {
        Labels::Masked { positions, ids, next_sentence, spans } => {
            let boundary = spans.as_ref().map(|spans| span_boundary(model, &hidden, (positions, spans), ids));
            let positions = sent(positions, device);
            let ids = sent(ids, device);
            let (loss, correct) = model.mlm_loss_sum(&hidden, &positions, &ids);
            let mut losses = vec![LossSum { loss, correct: Some(correct) }];
            losses.extend(boundary);
            if let Some(labels) = next_sentence {
                let labels = sent(labels, device);
                let (loss, correct, _) = cross_entropy(&model.nsp_logits(&hidden), &labels);
                losses.push(LossSum { loss, correct: Some(correct) });
            }
            if let Some(teacher) = teacher {
                let distances = teacher.distances(model, &hidden, &input, &positions);
                losses.extend(distances.map(|loss| LossSum { loss, correct: None }));
            }
            Sums { losses, answers: None, outputs: None }
        }
        Labels::Class(labels) => {
            let labels = sent(labels, device);
            answered(&model.class_logits(&hidden, input.mask.as_ref(), train), labels)
        }
        Labels::Tags(labels) => {
            let labels = sent(labels, device);
            let logits = model.token_logits(&hidden, train);
            answered(&logits.reshape([labels.size()[0], -1]), labels)
        }
        Labels::Score(scores) => {
            let outputs = model.class_logits(&hidden, input.mask.as_ref(), train).squeeze_dim(1);
            tasks::squared_error(&outputs, scores)
        }
        Labels::Answer { starts, ends, .. } => {
            tasks::spans(&model.answer_logits(&hidden, train), input.mask.as_ref(), starts, ends)
        }
        Labels::Cloze { positions, labels, words } => {
            let scores = tasks::label_scores(model, &hidden, &sent(positions, device), words);
            answered(&scores, sent(labels, device))
        }
        Labels::Choice { counts, right } => {
            let scores = tasks::choice_scores(&model.choice_logits(&hidden, input.mask.as_ref(), train), counts);
            let (loss, correct, _) = cross_entropy(&scores, &sent(right, device));
            Sums { losses: vec![LossSum { loss, correct: Some(correct) }], answers: None, outputs: None }
        }
        Labels::Match => tasks::contrast(&model.embeddings(&hidden, input.mask.as_ref()), batch, similarity_scale),
    }
}

/// SpanBERT's second loss.
fn span_boundary(model: &Model, hidden: &Tensor, (positions, spans): (&[i64], &[[i64; 2]]), ids: &[i64]) -> LossSum {
    let words: Vec<(usize, i64)> = span_words(positions, spans).collect();
    let column =
        |value: &dyn Fn(&(usize, i64)) -> i64| sent(&words.iter().map(value).collect::<Vec<_>>(), hidden.device());
    let at = Boundaries {
        left: column(&|(word, _)| spans[*word][0]),
        right: column(&|(word, _)| spans[*word][1]),
        place: column(&|(_, place)| *place),
    };
    let (loss, correct) = model.span_boundary_loss_sum(hidden, &at, &column(&|(word, _)| ids[*word]));
    LossSum { loss, correct: Some(correct) }
}

/// ELECTRA's two losses.
fn replaced(model: &Model, input: &Input, positions: &Tensor, ids: &Tensor, train: bool) -> Sums {
    let filled = model.fill(input, positions, ids, train);
    let (loss, correct) = model.replaced_loss_sum(input, positions, (ids, &filled.drawn), train);
    let generator = LossSum { loss: filled.loss, correct: Some(filled.correct) };
    let losses = vec![generator, LossSum { loss, correct: Some(correct) }];
    Sums { losses, answers: None, outputs: None }
}

fn answered(logits: &Tensor, labels: Tensor) -> Sums {
    let (loss, correct, predictions) = cross_entropy(logits, &labels);
    let losses = vec![LossSum { loss, correct: Some(correct) }];
    Sums { losses, answers: Some((labels, predictions)), outputs: None }
}

/// Summed loss, right answers, predictions. `logits`: `[n, classes]`; `labels`: `[n]`.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> (Tensor, Tensor, Tensor) {
    let loss = logits.cross_entropy_loss::<&Tensor>(labels, None, Reduction::Sum, IGNORED, 0.0);
    let predictions = logits.detach().argmax(-1, false);
    let correct = predictions.eq_tensor(labels).sum(Kind::Int64);
    (loss, correct, predictions)
}

/// The head that the objective trains.
pub(crate) fn head(config: &CheckedConfig, shape: &ModelShape, labels: &[String]) -> Head {
    match config.objective.kind {
        ObjectiveKind::MlmNsp | ObjectiveKind::MlmSop => Head::PreTraining,
        ObjectiveKind::Mlm if config.objective.span_boundary => Head::SpanBoundary,
        ObjectiveKind::Mlm | ObjectiveKind::Distill | ObjectiveKind::Cloze => Head::MaskedLm,
        ObjectiveKind::ReplacedTokens => Head::ReplacedTokens { generator: Some(config.model.generator(shape)) },
        ObjectiveKind::Classify => {
            // A number is one output, which needs a name in `config.json`.
            let labels = if config.objective.regression { vec!["score".to_owned()] } else { labels.to_vec() };
            Head::SequenceClassifier { labels, pooling: config.objective.pooling }
        }
        ObjectiveKind::Tag => Head::TokenClassifier { labels: labels.to_vec() },
        ObjectiveKind::Answer => Head::QuestionAnswering,
        ObjectiveKind::Match => Head::Embedder,
        ObjectiveKind::Choose => Head::MultipleChoice { pooling: config.objective.pooling },
    }
}
