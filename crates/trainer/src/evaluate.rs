//! Measuring on held-out samples, with the weights that come out of the run: the average, where weights are averaged.
//!
//! Every member prepares the same batches and computes those whose index, modulo the world size, is its rank. Losses are
//! summed as fixed-point integers and everything else as counts, so the numbers are bit-identical for any world size.

mod tasks;

use crate::TrainError;
use crate::answers::Finder;
use crate::host::Host;
use crate::metrics::squad::AnswerCounts;
use crate::metrics::{Confusion, EntityCounts};
use crate::objective::{Computation, Targets, forward, loss_from_fixed, loss_to_fixed};
use crate::state::State;
use crate::tensors::{to_f64, to_i64};
use c10d::{GroupError, ProcessGroup};
use config::{CheckedConfig, ObjectiveConfig, ObjectiveKind, TagScheme};
use corpus::{Batch, IGNORED, Labels, Loader};
use tch::{Device, Tensor};

/// The held-out samples, and what is reported of them.
pub(crate) struct HeldOut {
    objective: ObjectiveConfig,
    computation: Computation,
    entities: bool,
    samples: u64,
    labels: Vec<String>,
    /// Made at the first evaluation: they are the same every time.
    batches: Option<Vec<Batch>>,
}

/// Counts that add up over batches and workers.
struct Counts {
    main_loss: i64,
    main: i64,
    main_correct: i64,
    next_sentence_loss: i64,
    next_sentence: i64,
    next_sentence_correct: i64,
    /// Batches whose loss was not finite or too large to be added up.
    broken: i64,
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
        let mut counts = Counts::new(self.labels.len(), numbers);
        let mut finder = Finder::new(self.objective.answer_rule(), 1);
        let shares = tasks::shares(batches);
        let (rank, world) = (group.rank() as usize, group.world().max(1) as usize);
        let failed = |error: GroupError| TrainError::collective(Some(state.header.step), error);
        let mut first_row = 0;
        for (batch, share) in batches.iter().zip(shares) {
            let place = (first_row, batches.len() as u64);
            first_row += batch.samples;
            if share % world != rank {
                continue;
            }
            group.check().map_err(failed)?;
            tch::no_grad(|| self.count(&mut counts, &mut finder, state, batch, place, device));
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
        state: &State,
        batch: &Batch,
        (first_row, all): (usize, u64),
        device: Device,
    ) {
        let sums = forward(state.result(), batch, self.computation, device, false);
        let targets = Targets::of(batch);
        counts.main += targets.main;
        counts.main_correct += sums.main_correct.int64_value(&[]);
        match loss_to_fixed(sums.main.double_value(&[]), all) {
            Some(loss) => counts.main_loss += loss,
            None => counts.broken += 1,
        }
        if let Some((loss, correct)) = sums.next_sentence {
            counts.next_sentence += targets.next_sentence;
            counts.next_sentence_correct += correct.int64_value(&[]);
            match loss_to_fixed(loss.double_value(&[]), all) {
                Some(loss) => counts.next_sentence_loss += loss,
                None => counts.broken += 1,
            }
        }
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
        let share = |part: i64, whole: i64| part as f64 / whole.max(1) as f64;
        let main_loss = loss_from_fixed(counts.main_loss) / counts.main.max(1) as f64;
        let next_loss = loss_from_fixed(counts.next_sentence_loss) / counts.next_sentence.max(1) as f64;
        let finite = counts.broken == 0 && counts.main > 0;
        if finite {
            push("loss", main_loss + if counts.next_sentence > 0 { next_loss } else { 0.0 });
        } else {
            tracing::warn!(step = state.header.step.0, broken = counts.broken, "the held-out loss is not finite");
        }
        match self.objective.kind {
            ObjectiveKind::MlmNsp | ObjectiveKind::Mlm => {
                if finite {
                    push("mlm_loss", main_loss);
                    push("perplexity", main_loss.exp().min(f64::MAX));
                }
                push("mlm_accuracy", share(counts.main_correct, counts.main));
                if counts.next_sentence > 0 {
                    if finite {
                        push("nsp_loss", next_loss);
                    }
                    push("nsp_accuracy", share(counts.next_sentence_correct, counts.next_sentence));
                }
            }
            ObjectiveKind::Classify if self.objective.regression => {
                tasks::report_numbers(batches, &counts.numbers, &mut push);
            }
            ObjectiveKind::Answer => {
                tasks::report_answers(&counts.answers, tasks::script(&self.objective), &mut push);
            }
            ObjectiveKind::Match => push("accuracy", share(counts.main_correct, counts.main)),
            ObjectiveKind::Classify => {
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
    fn new(classes: usize, numbers: usize) -> Self {
        Self {
            main_loss: 0,
            main: 0,
            main_correct: 0,
            next_sentence_loss: 0,
            next_sentence: 0,
            next_sentence_correct: 0,
            broken: 0,
            entities: EntityCounts::default(),
            confusion: Confusion::new(classes),
            answers: AnswerCounts::default(),
            numbers: vec![0.0; numbers],
        }
    }

    /// The sums over all members.
    fn summed(self, group: &ProcessGroup, device: Device) -> Result<Self, GroupError> {
        let classes = self.confusion.classes();
        let mut values = vec![
            self.main_loss,
            self.main,
            self.main_correct,
            self.next_sentence_loss,
            self.next_sentence,
            self.next_sentence_correct,
            self.broken,
            self.entities.truth,
            self.entities.predicted,
            self.entities.correct,
        ];
        let AnswerCounts { answered, unanswered } = self.answers;
        values.extend(answered.into_iter().chain(unanswered));
        let plain = values.len();
        values.extend_from_slice(self.confusion.counts());
        let counted = values.len();
        // As bits: all members but one add 0.
        values.extend(self.numbers.iter().map(|number| number.to_bits() as i64));
        let tensor = Tensor::from_slice(&values).to_device(device);
        group.all_reduce_sum(&tensor)?;
        let values = to_i64(&tensor);
        Ok(Self {
            main_loss: values[0],
            main: values[1],
            main_correct: values[2],
            next_sentence_loss: values[3],
            next_sentence: values[4],
            next_sentence_correct: values[5],
            broken: values[6],
            entities: EntityCounts { truth: values[7], predicted: values[8], correct: values[9] },
            confusion: Confusion::from_counts(classes, values[plain..counted].to_vec()),
            answers: AnswerCounts {
                answered: [values[10], values[11], values[12]],
                unanswered: [values[13], values[14], values[15]],
            },
            numbers: values[counted..].iter().map(|bits| f64::from_bits(*bits as u64)).collect(),
        })
    }
}
