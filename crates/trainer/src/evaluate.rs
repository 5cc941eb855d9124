//! Measuring on held-out samples, with the weights that come out of the run: the average, where weights are averaged.
//!
//! Every member prepares the same batches and computes those whose index, modulo the world size, is its rank. Losses are
//! summed as fixed-point integers and everything else as counts, so the numbers are bit-identical for any world size.

mod tasks;

use crate::TrainError;
use crate::answers::Finder;
use crate::host::Host;
use crate::losses::{Counted, Loss, Tally, Targets, weighted};
use crate::metrics::squad::AnswerCounts;
use crate::metrics::{Confusion, EntityCounts};
use crate::objective::{self, Computation, forward};
use crate::seeds::held_out_seed;
use crate::state::State;
use crate::teacher::Teacher;
use crate::tensors::{to_f64, to_i64};
use c10d::{GroupError, ProcessGroup};
use config::{CheckedConfig, ObjectiveConfig, ObjectiveKind, TagScheme};
use corpus::{Batch, IGNORED, Labels, Loader};
use model::Model;
use tch::{Device, Tensor};

/// The held-out samples, and what is reported of them.
pub(crate) struct HeldOut {
    objective: ObjectiveConfig,
    seed: u64,
    losses: Vec<Loss>,
    computation: Computation,
    entities: bool,
    samples: u64,
    labels: Vec<String>,
    /// Made at the first evaluation: they are the same every time.
    batches: Option<Vec<Batch>>,
}

/// Counts that add up over batches and workers.
struct Counts {
    targets: Targets,
    tally: Tally,
    entities: EntityCounts,
    confusion: Confusion,
    answers: AnswerCounts,
    /// Regression: what was predicted for each sample; 0 where another member does.
    numbers: Vec<f64>,
}

impl HeldOut {
    pub fn new(config: &CheckedConfig, labels: &[String]) -> Self {
        let objective = &config.objective;
        Self {
            objective: objective.clone(),
            seed: config.run.seed,
            losses: objective::losses(config),
            computation: Computation::of(config),
            entities: objective.kind == ObjectiveKind::Tag && objective.tag_scheme == TagScheme::Bio,
            samples: config.eval.samples,
            labels: labels.to_vec(),
            batches: None,
        }
    }

    /// `eval/…`, the same on every member.
    pub fn evaluate(
        &mut self,
        state: &State,
        teacher: Option<&Teacher>,
        loader: &Loader,
        group: &ProcessGroup,
        host: &dyn Host,
        device: Device,
    ) -> Result<Vec<(String, f64)>, TrainError> {
        if self.batches.is_none() {
            let batches = loader.eval_batches(self.samples);
            self.batches = Some(batches.map_err(|error| TrainError::corpus(&error, error.to_string()))?);
        }
        let batches = self.batches.as_deref().unwrap_or_default();
        let numbers = batches.iter().map(|batch| batch.samples).filter(|_| self.objective.regression).sum();
        let mut counts = Counts::new(self.losses.len(), self.labels.len(), numbers);
        let mut finder = Finder::new(self.objective.answer_rule(), 1);
        let shares = tasks::shares(batches);
        let (rank, world) = (group.rank() as usize, group.world().max(1) as usize);
        let failed = |error: GroupError| TrainError::collective(Some(state.header.step), error);
        let mut first_row = 0;
        for (index, (batch, share)) in batches.iter().zip(shares).enumerate() {
            let place = (first_row, batches.len() as u64);
            first_row += batch.samples;
            if share % world != rank {
                continue;
            }
            group.check().map_err(failed)?;
            tch::manual_seed(held_out_seed(self.seed, index));
            let models = (state.result(), teacher);
            tch::no_grad(|| self.count(&mut counts, &mut finder, models, batch, place, device));
            host.moved();
        }
        let script = tasks::script(&self.objective);
        if let Some(last) = finder.finish() {
            counts.answers.add(&last.example.answers, last.answer(), script);
        }
        let counts = counts.summed(group, device).map_err(failed)?;
        Ok(self.report(&counts, batches, state))
    }

    /// Counts one of `all` batches; its samples begin at the given one.
    fn count(
        &self,
        counts: &mut Counts,
        finder: &mut Finder,
        models: (&Model, Option<&Teacher>),
        batch: &Batch,
        (first_row, all): (usize, u64),
        device: Device,
    ) {
        let sums = forward(models, batch, self.computation, device, false);
        counts.targets.add(&Targets::of(&self.losses, batch));
        counts.tally.add(&sums, all);
        match (&batch.labels, &sums.outputs) {
            (Labels::Answer { .. }, Some(scores)) => {
                for answered in finder.add(batch, scores) {
                    let script = tasks::script(&self.objective);
                    counts.answers.add(&answered.example.answers, answered.answer(), script);
                }
            }
            (Labels::Score(_), Some(outputs)) => {
                counts.numbers[first_row..first_row + batch.samples].copy_from_slice(&to_f64(outputs));
            }
            _ => {}
        }
        let Some((labels, predictions)) = sums.answers else { return };
        let (labels, predictions) = (to_i64(&labels), to_i64(&predictions));
        for (&truth, &predicted) in labels.iter().zip(&predictions).filter(|(truth, _)| **truth != IGNORED) {
            counts.confusion.add(truth as usize, predicted as usize);
        }
        if self.entities && matches!(batch.labels, Labels::Tags(_)) {
            let rows = labels.chunks(batch.sequence_length).zip(predictions.chunks(batch.sequence_length));
            for (truths, predictions) in rows {
                let words = || truths.iter().zip(predictions).filter(|(truth, _)| **truth != IGNORED);
                let truths: Vec<&str> = words().map(|(truth, _)| self.labels[*truth as usize].as_str()).collect();
                let predicted: Vec<&str> = words().map(|(_, tag)| self.labels[*tag as usize].as_str()).collect();
                counts.entities.add(&truths, &predicted);
            }
        }
    }

    fn report(&self, counts: &Counts, batches: &[Batch], state: &State) -> Vec<(String, f64)> {
        let mut report = Vec::new();
        let mut push = |name: &str, value: f64| report.push((format!("eval/{name}"), value));
        if counts.targets.0[0] == 0 {
            tracing::warn!(step = state.header.step.0, "nothing that is held out can be measured");
            return Vec::new();
        }
        let means = counts.tally.means(&counts.targets);
        let (broken, finite) = (counts.tally.broken, counts.tally.broken == 0);
        if finite {
            push("loss", weighted(&self.losses, &means));
        } else {
            tracing::warn!(step = state.header.step.0, broken, "the held-out loss is not finite");
        }
        match self.objective.kind {
            ObjectiveKind::MlmNsp
            | ObjectiveKind::Mlm
            | ObjectiveKind::MlmSop
            | ObjectiveKind::ReplacedTokens
            | ObjectiveKind::Distill => {
                for (index, loss) in self.losses.iter().enumerate() {
                    let count = counts.targets.0[index];
                    if index > 0 && count == 0 {
                        continue;
                    }
                    if finite {
                        push(&loss.metric("loss"), means[index]);
                    }
                    if finite && loss.has_answers && loss.counted == Counted::MaskedWords {
                        push("perplexity", means[index].exp().min(f64::MAX));
                    }
                    if loss.has_answers {
                        let correct = counts.tally.sums[index].correct;
                        push(&loss.metric("accuracy"), correct as f64 / count.max(1) as f64);
                    }
                }
            }
            ObjectiveKind::Classify if self.objective.regression => {
                tasks::report_numbers(batches, &counts.numbers, &mut push);
            }
            ObjectiveKind::Answer => {
                tasks::report_answers(&counts.answers, tasks::script(&self.objective), &mut push);
            }
            ObjectiveKind::Match | ObjectiveKind::Choose => {
                push("accuracy", counts.tally.sums[0].correct as f64 / counts.targets.0[0].max(1) as f64);
            }
            ObjectiveKind::Classify | ObjectiveKind::Cloze => {
                push("accuracy", counts.confusion.accuracy());
                push("macro_f1", counts.confusion.macro_f1());
                push("mcc", counts.confusion.matthews());
            }
            ObjectiveKind::Tag => {
                push("accuracy", counts.confusion.accuracy());
                push("macro_f1", counts.confusion.macro_f1());
                push("mcc", counts.confusion.matthews());
                if self.entities {
                    push("entity_precision", counts.entities.precision());
                    push("entity_recall", counts.entities.recall());
                    push("entity_f1", counts.entities.f1());
                }
            }
        }
        report
    }
}

impl Counts {
    fn new(losses: usize, classes: usize, numbers: usize) -> Self {
        Self {
            targets: Targets(vec![0; losses]),
            tally: Tally::new(losses),
            entities: EntityCounts::default(),
            confusion: Confusion::new(classes),
            answers: AnswerCounts::default(),
            numbers: vec![0.0; numbers],
        }
    }

    /// The sums over all members.
    fn summed(self, group: &ProcessGroup, device: Device) -> Result<Self, GroupError> {
        let (losses, classes) = (self.targets.0.len(), self.confusion.classes());
        let mut values = vec![self.entities.truth, self.entities.predicted, self.entities.correct];
        let AnswerCounts { answered, unanswered } = self.answers;
        values.extend(answered.into_iter().chain(unanswered));
        values.extend_from_slice(&self.targets.0);
        values.extend(self.tally.to_words());
        values.extend_from_slice(self.confusion.counts());
        // As bits: all members but one add 0.
        values.extend(self.numbers.iter().map(|number| number.to_bits() as i64));
        let tensor = Tensor::from_slice(&values).to_device(device);
        group.all_reduce_sum(&tensor)?;
        let values = to_i64(&tensor);
        let (entities, rest) = values.split_at(3);
        let (answers, rest) = rest.split_at(6);
        let (targets, rest) = rest.split_at(losses);
        let (tally, rest) = rest.split_at(Tally::words(losses));
        let (confusion, numbers) = rest.split_at(classes * classes);
        Ok(Self {
            targets: Targets(targets.to_vec()),
            tally: Tally::from_words(tally),
            entities: EntityCounts { truth: entities[0], predicted: entities[1], correct: entities[2] },
            confusion: Confusion::from_counts(classes, confusion.to_vec()),
            answers: AnswerCounts {
                answered: [answers[0], answers[1], answers[2]],
                unanswered: [answers[3], answers[4], answers[5]],
            },
            numbers: numbers.iter().map(|bits| f64::from_bits(*bits as u64)).collect(),
        })
    }
}
