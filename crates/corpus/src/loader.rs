//! Batches for the slots of one worker, prepared ahead in background threads.

mod background;

use crate::batch::{Batch, SlotStep};
use crate::prepare::{Counts, Part, Preparer};
use crate::samples::masking::Masker;
use crate::samples::{Assembler, Samples};
use crate::{Corpus, CorpusError, ErrorKind, Tokenizer};
use background::Background;
use config::{CheckedConfig, ObjectiveKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{Cursor, Segment, SlotId};

/// Feeds the slots assigned to this worker. What a slot gets depends on (config, files, cursor) alone: never on the
/// other slots, the worker, or what was asked before.
pub struct Loader {
    corpus: Arc<Corpus>,
    preparer: Arc<Preparer>,
    assembler: Assembler,
    counts: Arc<Counts>,
    background: Background,
    slots: BTreeMap<SlotId, SlotState>,
    micro_batch: usize,
    accumulate: usize,
    sequence_length: usize,
    prefetch: u64,
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
        let masked = matches!(config.objective.kind, ObjectiveKind::Mlm | ObjectiveKind::MlmNsp);
        let masker = masked.then(|| Masker::new(&config.objective, config.batch.sequence_length, &tokenizer));
        let assembler = Assembler { pad: tokenizer.special().pad, masker };
        let preparer = Arc::new(Preparer::new(corpus.clone(), tokenizer, config, counts.clone()));
        Self {
            corpus,
            assembler,
            counts,
            background: Background::start(preparer.clone(), 0),
            preparer,
            slots: BTreeMap::new(),
            micro_batch: config.batch.micro_batch,
            accumulate: config.batch.accumulate,
            sequence_length: config.batch.sequence_length,
            prefetch: config.data.prefetch_units as u64,
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

    /// What `slot` computes in its next step. Waits for the background; an error ends the slot until the next
    /// assignment.
    pub fn next(&mut self, slot: SlotId) -> Result<SlotStep, CorpusError> {
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
            None => self.advance(slot, &mut state),
        };
        state.failed = outcome.as_ref().err().cloned();
        self.slots.insert(slot, state);
        outcome
    }

    fn advance(&self, slot: SlotId, state: &mut SlotState) -> Result<SlotStep, CorpusError> {
        let wanted = self.micro_batch * self.accumulate;
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
            if empty_units > self.corpus.plan().units().len() {
                return Err(self.nothing());
            }
        }
        let batches = rows.chunks(self.micro_batch).map(|rows| self.batch(rows)).collect();
        Ok(SlotStep { batches, segments, cursor: state.cursor })
    }

    fn batch(&self, rows: &[(Arc<Samples>, usize)]) -> Batch {
        let rows: Vec<(&Samples, usize)> = rows.iter().map(|(unit, row)| (unit.as_ref(), *row)).collect();
        self.assembler.batch(&rows, self.sequence_length)
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

    /// Up to `samples` held-out samples in batches of `micro_batch`: the same ones, with the same masks, whenever and
    /// wherever it is asked. Empty if nothing is held out.
    pub fn eval_batches(&self, samples: u64) -> Result<Vec<Batch>, CorpusError> {
        let mut encoder = self.preparer.encoder();
        let mut rows: Vec<(Arc<Samples>, usize)> = Vec::new();
        let wanted = usize::try_from(samples).unwrap_or(usize::MAX);
        for unit in 0..self.corpus.plan().eval_units().len() {
            if rows.len() >= wanted {
                break;
            }
            let prepared = self.preparer.prepare(Part::HeldOut { unit }, &mut encoder, &|| false)?;
            let unit = Arc::new(prepared.expect("nothing cancels it"));
            let taken = unit.count().min(wanted - rows.len());
            rows.extend((0..taken).map(|row| (unit.clone(), row)));
        }
        Ok(rows.chunks(self.micro_batch).map(|rows| self.batch(rows)).collect())
    }

    /// What was left out or cut so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}
