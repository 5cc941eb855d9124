//! Measuring on held-out samples, with the weights that come out of the run: the average, where weights are averaged.
//!
//! Every member prepares the same batches and computes those whose index, modulo the world size, is its rank. Losses are
//! summed as fixed-point integers and everything else as counts, so the numbers are bit-identical for any world size.

use crate::TrainError;
use crate::host::Host;
use crate::metrics::{Confusion, EntityCounts};
use crate::objective::{Targets, forward, loss_from_fixed, loss_to_fixed};
use crate::state::State;
use crate::tensors::to_i64;
use c10d::{GroupError, ProcessGroup};
use config::{CheckedConfig, ObjectiveKind, Precision, TagScheme};
use corpus::{Batch, IGNORED, Labels, Loader};
use tch::{Device, Tensor};

/// The held-out samples, and what is reported of them.
pub(crate) struct HeldOut {
    objective: ObjectiveKind,
    precision: Precision,
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
}

impl HeldOut {
    pub fn new(config: &CheckedConfig, labels: &[String]) -> Self {
        let objective = &config.objective;
        Self {
            objective: objective.kind,
            precision: config.run.precision,
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
        let mut counts = Counts::new(self.labels.len());
        let (rank, world) = (group.rank() as usize, group.world().max(1) as usize);
        let failed = |error: GroupError| TrainError::collective(Some(state.header.step), error);
        for batch in batches.iter().skip(rank).step_by(world) {
            group.check().map_err(failed)?;
            tch::no_grad(|| self.count(&mut counts, state, batch, batches.len() as u64, device));
            host.moved();
        }
        let counts = counts.summed(group, device).map_err(failed)?;
        Ok(self.report(&counts, state))
    }

    /// Counts one of `all` batches.
    fn count(&self, counts: &mut Counts, state: &State, batch: &Batch, all: u64, device: Device) {
        let sums = forward(state.result(), batch, self.precision, device, false);
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

    fn report(&self, counts: &Counts, state: &State) -> Vec<(String, f64)> {
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
        match self.objective {
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
    fn new(classes: usize) -> Self {
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
        let plain = values.len();
        values.extend_from_slice(self.confusion.counts());
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
            confusion: Confusion::from_counts(classes, values[plain..].to_vec()),
        })
    }
}
