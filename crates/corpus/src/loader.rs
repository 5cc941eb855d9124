//! Batches for the slots of one worker, prepared ahead in background threads.

mod background;

use crate::batch::{Batch, Labels, SlotStep};
use crate::prepare::{Counts, Part, Preparer};
use crate::random::Stream;
use crate::samples::masking::{Amount, Masker};
use crate::samples::{Assembler, Form, Samples};
use crate::{Corpus, CorpusError, ErrorKind, Tokenizer};
use background::Background;
use config::{BatchConfig, CheckedConfig, ObjectiveConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{Cursor, Segment, SlotId, Step};

/// Feeds the slots assigned to this worker. What a slot gets depends on (config, files, cursor, step) alone: never on the
/// other slots, the worker, or what was asked before. Which samples lie at a cursor does not depend on the step; how many
/// of them are taken, how long the rows are that they are cut into, and how many of their words are masked, does.
pub struct Loader {
    corpus: Arc<Corpus>,
    preparer: Arc<Preparer>,
    assembler: Assembler,
    counts: Arc<Counts>,
    background: Background,
    slots: BTreeMap<SlotId, SlotState>,
    batch: BatchConfig,
    objective: ObjectiveConfig,
    /// Of the whole run.
    steps: u64,
    prefetch: u64,
    /// It was looked for, and found, that some unit gives a sample.
    gives_samples: bool,
}

struct SlotState {
    cursor: Cursor,
    /// The unit of the cursor's turn, once it was needed.
    unit: Option<Arc<Samples>>,
    /// What ended this slot: it is answered again until the next assignment.
    failed: Option<CorpusError>,
}

impl Loader {
    /// A loader with no slots.
    pub fn new(corpus: Arc<Corpus>, tokenizer: Arc<Tokenizer>, config: &CheckedConfig) -> Self {
        let counts = Arc::new(Counts::default());
        let masker = config.objective.kind.masks().then(|| Masker::new(&config.objective, &tokenizer));
        let assembler = Assembler { pad: tokenizer.special().pad, masker };
        let preparer = Arc::new(Preparer::new(corpus.clone(), tokenizer, config, counts.clone()));
        Self {
            corpus,
            assembler,
            counts,
            background: Background::start(preparer.clone(), 0),
            preparer,
            slots: BTreeMap::new(),
            batch: config.batch.clone(),
            objective: config.objective.clone(),
            steps: config.run.steps,
            prefetch: config.data.prefetch_units as u64,
            gives_samples: false,
        }
    }

    /// Takes over these slots at these cursors and gives up all others; background work for them starts at once.
    pub fn assign(&mut self, slots: &[(SlotId, Cursor)]) {
        // A quarter of the cores prepares; training has the rest.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.div_ceil(4).clamp(1, 4).min(slots.len());
        self.background = Background::start(self.preparer.clone(), threads);
        self.slots = slots
            .iter()
            .map(|(slot, cursor)| (*slot, SlotState { cursor: *cursor, unit: None, failed: None }))
            .collect();
        for ahead in 0..=self.prefetch {
            for (slot, state) in &self.slots {
                self.background.order(self.part(*slot, state.cursor.turn + ahead), *slot, state.cursor.turn + ahead);
            }
        }
    }

    fn part(&self, slot: SlotId, turn: u64) -> Part {
        let dealt = self.corpus.plan().deal(slot, turn);
        Part::Train { epoch: dealt.epoch, unit: dealt.unit }
    }

    /// What `slot` computes, from where it stands, in the run's step number `step`, counted from 1. Waits for the
    /// background; an error ends the slot until the next assignment.
    pub fn next(&mut self, slot: SlotId, step: Step) -> Result<SlotStep, CorpusError> {
        let Some(mut state) = self.slots.remove(&slot) else {
            return Err(CorpusError::new(
                ErrorKind::Internal,
                "loader",
                format!("slot {slot} is not assigned to this worker"),
                "this is a bug: please report it",
            ));
        };
        let outcome = match &state.failed {
            Some(error) => Err(error.clone()),
            None => self.advance(slot, step, &mut state),
        };
        state.failed = outcome.as_ref().err().cloned();
        self.slots.insert(slot, state);
        outcome
    }

    fn advance(&mut self, slot: SlotId, step: Step, state: &mut SlotState) -> Result<SlotStep, CorpusError> {
        let wanted = self.batch.micro_batch * self.batch.accumulate_at(step.0, self.steps);
        let mut rows: Vec<(Arc<Samples>, usize)> = Vec::with_capacity(wanted);
        let mut segments = Vec::new();
        let mut empty_units = 0;
        while rows.len() < wanted {
            let cursor = &mut state.cursor;
            let unit = match &state.unit {
                Some(unit) => unit.clone(),
                None => {
                    let unit = self.background.take(slot, cursor.turn)?;
                    let ahead = cursor.turn + self.prefetch + 1;
                    self.background.order(self.part(slot, ahead), slot, ahead);
                    state.unit.insert(unit).clone()
                }
            };
            let total = unit.count();
            let start = cursor.sample as usize;
            if start > total {
                return Err(self.misplaced(slot, *cursor, total));
            }
            let taken = (wanted - rows.len()).min(total - start);
            if taken > 0 || total == 0 {
                let (start, end, total) = (start as u64, (start + taken) as u64, total as u64);
                segments.push(Segment { slot, turn: cursor.turn, start, end, total });
            }
            rows.extend((start..start + taken).map(|row| (unit.clone(), row)));
            cursor.sample += taken as u64;
            if cursor.sample as usize == total {
                *cursor = Cursor { turn: cursor.turn + 1, sample: 0 };
                state.unit = None;
            }
            empty_units = if total == 0 { empty_units + 1 } else { 0 };
            if empty_units > self.corpus.plan().units().len() && !self.gives_samples {
                // The other slots may have been dealt all units that hold something.
                self.gives_samples = self.any_unit_gives_samples()?;
                if !self.gives_samples {
                    return Err(self.nothing());
                }
            }
        }
        let rate = self.objective.mask_rate_at(step.0, self.steps);
        let row_length = self.batch.row_length_at(step.0, self.steps);
        let form = self.form(rate, row_length, self.batch.rows_at(step.0, self.steps));
        Ok(SlotStep { batches: self.batches(&rows, form), segments, cursor: state.cursor })
    }

    /// Makes one unit after the other, until there is a sample.
    fn any_unit_gives_samples(&self) -> Result<bool, CorpusError> {
        let mut encoder = self.preparer.encoder();
        for unit in 0..self.corpus.plan().units().len() {
            let prepared = self.preparer.prepare(Part::Train { epoch: 0, unit }, &mut encoder, &|| false)?;
            if prepared.is_some_and(|samples| samples.count() > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of samples of which each makes so many `rows`.
    fn form(&self, rate: f64, row_length: usize, rows: usize) -> Form {
        Form { row_length, amount: Amount { rate, most: self.objective.predictions_max(rate, row_length, rows) } }
    }

    fn batches(&self, rows: &[(Arc<Samples>, usize)], form: Form) -> Vec<Batch> {
        let batch = |rows: &[(Arc<Samples>, usize)]| {
            let rows: Vec<(&Samples, usize)> = rows.iter().map(|(unit, row)| (unit.as_ref(), *row)).collect();
            self.assembler.batch(&rows, form)
        };
        rows.chunks(self.batch.micro_batch).map(batch).collect()
    }

    fn misplaced(&self, slot: SlotId, cursor: Cursor, total: usize) -> CorpusError {
        let unit = self.corpus.plan().units()[self.corpus.plan().deal(slot, cursor.turn).unit];
        let message = format!("the run stands at sample {} of a unit that has {total} now", cursor.sample);
        let help = "the files have changed since the run began: put them back, or submit a new run";
        self.corpus.error(ErrorKind::Corrupt, &unit, None, message, help)
    }

    fn nothing(&self) -> CorpusError {
        CorpusError::new(
            ErrorKind::Empty,
            self.corpus.files().first().map_or("data.paths", |file| file.path.as_str()),
            format!("column `{}` gives not one sample: all its rows are null or empty", self.corpus.columns().text),
            "name the column that holds the text in `data.column`",
        )
    }

    /// Up to `samples` held-out samples (questions, of which each may have several windows) in batches of `micro_batch`:
    /// the same ones, with the same masks, whenever and wherever it is asked, at whatever step. Labelled units come in an
    /// order drawn by the seed, for files are often sorted by their labels. Empty if nothing is held out.
    pub fn eval_batches(&self, samples: u64) -> Result<Vec<Batch>, CorpusError> {
        let mut encoder = self.preparer.encoder();
        let mut rows: Vec<(Arc<Samples>, usize)> = Vec::new();
        let wanted = usize::try_from(samples).unwrap_or(usize::MAX);
        let units = self.corpus.plan().eval_units().len();
        let order: Vec<usize> = if self.objective.kind.is_supervised() {
            let drawn = Stream::new("held-out units", &[self.corpus.plan().seed()]).permutation(units);
            drawn.into_iter().map(|unit| unit as usize).collect()
        } else {
            (0..units).collect()
        };
        let mut taken = 0;
        for unit in order {
            if taken == wanted {
                break;
            }
            let prepared = self.preparer.prepare(Part::HeldOut { unit }, &mut encoder, &|| false)?;
            let unit = Arc::new(prepared.expect("nothing cancels it"));
            for row in 0..unit.count() {
                if !unit.goes_on(row) {
                    if taken == wanted {
                        break;
                    }
                    taken += 1;
                }
                rows.push((unit.clone(), row));
            }
        }
        let mut batches =
            self.batches(&rows, self.form(self.objective.mask_rate_held_out(), self.batch.sequence_length, 1));
        // A pair is told from the others of its batch: one without others would always be right.
        let alone = |batch: &Batch| matches!(batch.labels, Labels::Match) && batch.samples < 4;
        if batches.len() > 1 && batches.last().is_some_and(alone) {
            batches.pop();
        }
        Ok(batches)
    }

    /// What was left out or cut so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}
