//! From a unit to its samples: read, permute, tokenise, build. A pure function of (corpus, seed, epoch, unit).

use crate::answers::{Question, locate};
use crate::choices::ChoiceRows;
use crate::cloze::Cloze;
use crate::corpus::LABEL_HELP;
use crate::corpus::faults::{no_answer, number, one_tag_each};
use crate::corpus::left_out::left_out;
use crate::documents::{Documents, is_filled};
use crate::plan::Unit;
use crate::rows::{self, AnswerRows, TextRows};
use crate::samples::labelled::{LabelledBuilder, Target};
use crate::samples::pairs::PairRule;
use crate::samples::{MaskKey, Samples, Targets, blocks, pairs, sentences};
use crate::tokenizer::Encoder;
use crate::{Corpus, CorpusError, ErrorKind, Tokenizer};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use config::{CheckedConfig, ObjectiveConfig, ObjectiveKind, Packing};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was left out or cut so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Rows skipped since their text or label is null, or their list empty.
    pub null_rows: AtomicU64,
    /// Labelled samples longer than the sequence.
    pub truncated: AtomicU64,
    /// Samples of which two choices are the same tokens: one is right and the other wrong by its place alone.
    pub alike: AtomicU64,
}

/// Which unit, in which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Train { epoch: u64, unit: usize },
    HeldOut { unit: usize },
}

/// Everything that making samples needs; shared by the background threads.
pub(crate) struct Preparer {
    corpus: Arc<Corpus>,
    tokenizer: Arc<Tokenizer>,
    objective: ObjectiveConfig,
    sequence_length: usize,
    /// Of training blocks.
    sample_length: usize,
    labels: HashMap<String, i64>,
    counts: Arc<Counts>,
}

impl Preparer {
    pub(crate) fn new(
        corpus: Arc<Corpus>,
        tokenizer: Arc<Tokenizer>,
        config: &CheckedConfig,
        counts: Arc<Counts>,
    ) -> Self {
        let labels = corpus.labels().iter().enumerate().map(|(index, label)| (label.clone(), index as i64)).collect();
        Self {
            corpus,
            tokenizer,
            objective: config.objective.clone(),
            sequence_length: config.batch.sequence_length,
            sample_length: config.batch.sample_length(),
            labels,
            counts,
        }
    }

    pub(crate) fn encoder(&self) -> Encoder<'_> {
        self.tokenizer.encoder()
    }

    /// The samples of a unit. `cancelled` is asked between rows; then the answer is None.
    pub(crate) fn prepare(
        &self,
        part: Part,
        encoder: &mut Encoder<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Samples>, CorpusError> {
        let plan = self.corpus.plan();
        let (unit, selected, key) = match part {
            Part::Train { epoch, unit } => (
                plan.units()[unit],
                self.corpus.selected(unit),
                MaskKey { seed: plan.seed(), epoch, unit: unit as u64, held_out: false },
            ),
            Part::HeldOut { unit } => (
                plan.eval_units()[unit],
                self.corpus.selected_eval(unit),
                MaskKey { seed: plan.seed(), epoch: 0, unit: unit as u64, held_out: true },
            ),
        };
        let batch = self.corpus.source().read(&unit)?;
        let mut order: Vec<u32> = selected.map_or_else(|| (0..unit.rows as u32).collect(), <[u32]>::to_vec);
        if batch.num_rows() as u64 != unit.rows {
            let message = format!("{} rows came where the plan has {}", batch.num_rows(), unit.rows);
            return Err(self.corpus.error(
                ErrorKind::Corrupt,
                &unit,
                None,
                message,
                "have the files changed? submit again",
            ));
        }
        key.stream("rows", 0).shuffle(&mut order);
        if self.objective.kind.is_supervised() {
            let left_out = left_out(self.objective.kind, self.corpus.columns(), &batch)
                .map_err(self.column_error(&unit, LABEL_HELP))?;
            let all = order.len();
            order.retain(|row| !left_out[*row as usize]);
            self.count_left_out((all - order.len()) as u64, &unit);
        }
        let between_rows = || {
            self.corpus.progressed();
            cancelled()
        };
        let work = Work { unit, batch, order, key, encoder, cancelled: &between_rows };
        match self.objective.kind {
            ObjectiveKind::Classify | ObjectiveKind::Cloze => self.classes(work),
            ObjectiveKind::Tag => self.tags(work),
            ObjectiveKind::Answer => self.questions(work),
            ObjectiveKind::Match => self.pairs_that_match(work),
            ObjectiveKind::Choose => self.choices(work),
            _ => self.masked(work),
        }
    }

    fn column_error<'a>(&'a self, unit: &'a Unit, help: &'a str) -> impl Fn(String) -> CorpusError + 'a {
        move |message| self.corpus.error(ErrorKind::Type, unit, None, message, help)
    }

    fn text_column(&self, unit: &Unit, column: &ArrayRef) -> Result<TextRows, CorpusError> {
        TextRows::of(column).map_err(self.column_error(unit, "write the column as text or as lists of whole numbers"))
    }

    fn count_left_out(&self, rows: u64, unit: &Unit) {
        if rows > 0 {
            let total = self.counts.null_rows.fetch_add(rows, Ordering::Relaxed) + rows;
            let place = self.corpus.place(unit, None);
            tracing::warn!(%place, rows, total, "null or empty rows are skipped");
        }
    }

    fn masked(&self, mut work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let by_sentence = self.objective.kind.has_pairs() || self.objective.packing != Packing::Blocks;
        let (special, size) = (self.tokenizer.special(), self.tokenizer.size());
        let column = self.text_column(&work.unit, work.batch.column(0))?;
        let mut documents = Documents::default();
        let mut nulls = 0;
        for row in std::mem::take(&mut work.order) {
            let row = row as usize;
            if (work.cancelled)() {
                return Ok(None);
            }
            match &column {
                TextRows::Text(texts) if texts.is_valid(row) => {
                    documents.add_text(texts.value(row), by_sentence, work.encoder)?;
                }
                TextRows::Ids(lists) if is_filled(lists, row) => {
                    documents.add_ids(lists, row, special, size).map_err(|value| {
                        self.corpus.error(
                            ErrorKind::Value,
                            &work.unit,
                            Some(row as u64),
                            format!("{value} is no id of this tokenizer, which has {size}"),
                            "use the tokenizer that the ids were made with",
                        )
                    })?;
                }
                TextRows::Words => {
                    let wrong = self.column_error(&work.unit, "name a column of text or token ids in `data.column`");
                    return Err(wrong("the column holds lists of words".to_owned()));
                }
                _ => nulls += 1,
            }
        }
        self.count_left_out(nulls, &work.unit);
        let samples = if self.objective.kind.has_pairs() {
            let rule = PairRule {
                sequence_length: self.sequence_length,
                short_sequence_probability: self.objective.short_sequence_probability,
                sentence_order: self.objective.kind == ObjectiveKind::MlmSop,
                special,
            };
            pairs::build(&documents, &rule, &mut work.key.stream("pairs", 0), work.key)
        } else {
            // Held-out blocks are never cut into rows: they are as full as can be.
            let length = if work.key.held_out { self.sequence_length } else { self.sample_length };
            match self.objective.packing {
                Packing::Blocks => blocks::build(&documents, length, special, work.key),
                Packing::FullSentences => sentences::build(&documents, length, true, special, work.key),
                Packing::DocSentences => sentences::build(&documents, length, false, special, work.key),
            }
        };
        // Samples that share a document are neighbours; a batch should not be all of one.
        let order = work.key.stream("samples", 0).permutation(samples.count());
        Ok(Some(samples.reordered(&order)))
    }

    /// The index of a row's label, or of that of one of its words.
    fn label(&self, label: &str, work: &Work<'_, '_>, row: usize, word: usize) -> Result<i64, CorpusError> {
        self.labels.get(label).copied().ok_or_else(|| {
            let (message, help) = self.corpus.unknown_label(label);
            let place = self.corpus.place_of_word(&work.unit, row as u64, word);
            CorpusError::new(ErrorKind::Value, place, message, help)
        })
    }

    fn fault(&self, work: &Work<'_, '_>, row: usize, (message, help): (String, String)) -> CorpusError {
        self.corpus.error(ErrorKind::Value, &work.unit, Some(row as u64), message, &help)
    }

    /// What a text or a pair has: a class, or a number.
    fn target(&self, label: &str, work: &Work<'_, '_>, row: usize) -> Result<Target, CorpusError> {
        if self.objective.regression {
            return number(label).map(Target::Score).map_err(|fault| self.fault(work, row, fault));
        }
        self.label(label, work, row, 0).map(Target::Class)
    }

    fn classes(&self, mut work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let wrong = self.column_error(&work.unit, LABEL_HELP);
        let labels = rows::text(work.batch.column(work.batch.num_columns() - 1)).map_err(&wrong)?;
        let texts = rows::text(work.batch.column(0)).map_err(&wrong)?;
        let pairs = match self.corpus.columns().pair {
            Some(_) => Some(rows::text(work.batch.column(1)).map_err(&wrong)?),
            None => None,
        };
        drop(wrong);
        let order = std::mem::take(&mut work.order);
        let mut chosen = Vec::with_capacity(order.len());
        for row in order.into_iter().map(|row| row as usize) {
            chosen.push((row, self.target(labels.value(row), &work, row)?));
        }
        let Work { key, encoder, cancelled, .. } = work;
        let cloze = self.cloze()?;
        let targets = match &cloze {
            Some(cloze) => Targets::Cloze { words: Arc::clone(cloze.words()), places: Vec::new() },
            None if self.objective.regression => Targets::Score(Vec::new()),
            None => Targets::Class(Vec::new()),
        };
        let mut builder = self.builder(targets, key, encoder);
        for (row, target) in chosen {
            if cancelled() {
                return Ok(None);
            }
            if let Some(cloze) = &cloze {
                let pair = pairs.as_ref().map(|pairs| pairs.value(row));
                builder.add_cloze(cloze, texts.value(row), pair, target)?;
                continue;
            }
            match &pairs {
                Some(pairs) => builder.add_pair(texts.value(row), pairs.value(row), target)?,
                None => builder.add_text(texts.value(row), target)?,
            }
        }
        Ok(Some(self.finish(builder)))
    }

    /// The prompt, where the objective has one.
    fn cloze(&self) -> Result<Option<Cloze>, CorpusError> {
        if self.objective.kind != ObjectiveKind::Cloze {
            return Ok(None);
        }
        let prompt = self.objective.prompt.as_deref().unwrap_or_default().parse().map_err(|message: String| {
            CorpusError::new(ErrorKind::Value, "objective.prompt", message, "for example \"{text} It was [MASK].\"")
        })?;
        Cloze::new(&self.tokenizer, prompt, &self.objective.verbalizers, "objective.verbalizers").map(Some)
    }

    fn tags(&self, mut work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let wrong = self.column_error(&work.unit, LABEL_HELP);
        let words = rows::text_lists(work.batch.column(0)).map_err(&wrong)?;
        let tags = rows::text_lists(work.batch.column(work.batch.num_columns() - 1)).map_err(&wrong)?;
        drop(wrong);
        let mut sentences = Vec::new();
        for row in std::mem::take(&mut work.order).into_iter().map(|row| row as usize) {
            let (row_words, row_tags) = (words.value(row), tags.value(row));
            one_tag_each(&row_words, &row_tags).map_err(|(message, help)| {
                self.corpus.error(ErrorKind::Value, &work.unit, Some(row as u64), message, &help)
            })?;
            let row_tags = row_tags.as_string::<i64>();
            let ids: Vec<i64> = (0..row_tags.len())
                .map(|word| self.label(row_tags.value(word), &work, row, word))
                .collect::<Result<_, _>>()?;
            sentences.push((row_words, ids));
        }
        let Work { key, encoder, cancelled, .. } = work;
        let mut builder = self.builder(Targets::Tags(Vec::new()), key, encoder);
        for (words, tags) in sentences {
            if cancelled() {
                return Ok(None);
            }
            builder.add_tagged(words.as_string::<i64>().iter().flatten().zip(tags))?;
        }
        Ok(Some(self.finish(builder)))
    }

    fn questions(&self, mut work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let wrong = self.column_error(&work.unit, LABEL_HELP);
        let passages = rows::text(work.batch.column(0)).map_err(&wrong)?;
        let questions = rows::text(work.batch.column(1)).map_err(&wrong)?;
        let answers = AnswerRows::of(work.batch.column(work.batch.num_columns() - 1)).map_err(&wrong)?;
        drop(wrong);
        let rule = self.objective.windows(self.sequence_length);
        let mut asked = Vec::new();
        for row in std::mem::take(&mut work.order).into_iter().map(|row| row as usize) {
            if (work.cancelled)() {
                return Ok(None);
            }
            let passage = passages.value(row);
            let help = "give each answer its text and its first character";
            let found = answers.row(row).map_err(|message| self.fault(&work, row, (message, help.to_owned())))?;
            if found.is_empty() && self.objective.no_answer_threshold.is_none() {
                return Err(self.fault(&work, row, no_answer()));
            }
            let found: Vec<(&str, i64)> = found.iter().map(|(text, start)| (text.as_str(), *start)).collect();
            let found = locate(passage, &found).map_err(|fault| self.fault(&work, row, fault))?;
            let question = Question::new(&self.tokenizer, (questions.value(row), passage), &found, rule)?;
            asked.push(question.ok_or_else(|| {
                let text = &passage[found[0].clone()];
                let help = "correct the answer's text, or leave the row out";
                self.fault(&work, row, (format!("the tokenizer keeps nothing of the answer `{text}`"), help.to_owned()))
            })?);
        }
        let Work { key, encoder, .. } = work;
        let mut builder = self.builder(Targets::Answer(Vec::new()), key, encoder);
        for question in &asked {
            builder.add_question(question, rule);
        }
        let samples = self.finish(builder);
        if key.held_out {
            // The windows of a question are evaluated together.
            return Ok(Some(samples));
        }
        let order = key.stream("samples", 0).permutation(samples.count());
        Ok(Some(samples.reordered(&order)))
    }

    fn pairs_that_match(&self, work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let wrong = self.column_error(&work.unit, "name columns of text in `data.column` and `data.pair_column`");
        let first = rows::text(work.batch.column(0)).map_err(&wrong)?;
        let second = rows::text(work.batch.column(1)).map_err(&wrong)?;
        drop(wrong);
        let Work { order, key, encoder, cancelled, .. } = work;
        let mut builder = self.builder(Targets::Match(Vec::new()), key, encoder);
        for row in order.into_iter().map(|row| row as usize) {
            if cancelled() {
                return Ok(None);
            }
            builder.add_separate(first.value(row), second.value(row))?;
        }
        Ok(Some(self.finish(builder)))
    }

    fn choices(&self, mut work: Work<'_, '_>) -> Result<Option<Samples>, CorpusError> {
        let wrong = self.column_error(&work.unit, LABEL_HELP);
        let columns = self.corpus.columns();
        let texts = rows::text(work.batch.column(0)).map_err(&wrong)?;
        let questions = columns.pair.as_ref().map(|_| rows::text(work.batch.column(1))).transpose().map_err(&wrong)?;
        let all = ChoiceRows::of(columns.choices_of(&work.batch)).map_err(&wrong)?;
        let labels = rows::text(work.batch.column(work.batch.num_columns() - 1)).map_err(&wrong)?;
        drop(wrong);
        let order = std::mem::take(&mut work.order);
        let mut builder = self.builder(Targets::Choice(Vec::new()), work.key, work.encoder);
        for row in order.into_iter().map(|row| row as usize) {
            if (work.cancelled)() {
                return Ok(None);
            }
            let fault = |(message, help): (String, String)| {
                self.corpus.error(ErrorKind::Value, &work.unit, Some(row as u64), message, &help)
            };
            let choices = all.row(row).expect("a row without choices is left out");
            let (own, right) = choices.checked(labels.value(row), columns.first_choice).map_err(fault)?;
            let question = questions.as_ref().map(|questions| questions.value(row));
            builder.add_choices(texts.value(row), question, &own, right as i64)?;
        }
        Ok(Some(self.finish(builder)))
    }

    fn builder<'a, 'b>(&self, targets: Targets, key: MaskKey, encoder: &'b mut Encoder<'a>) -> LabelledBuilder<'a, 'b> {
        LabelledBuilder::new(targets, key, encoder, self.sequence_length)
    }

    fn finish(&self, builder: LabelledBuilder<'_, '_>) -> Samples {
        // Once: for most kinds of text it is no mistake, but whoever reads the metrics must know.
        if self.counts.truncated.fetch_add(builder.truncated, Ordering::Relaxed) == 0 && builder.truncated > 0 {
            tracing::warn!(
                tokens = self.sequence_length,
                "samples longer than batch.sequence_length are cut: what comes after is neither learned nor measured"
            );
        }
        if self.counts.alike.fetch_add(builder.alike, Ordering::Relaxed) == 0 && builder.alike > 0 {
            tracing::warn!(
                "some samples have choices that are the same tokens, cut or in lower case: which is right is chance there"
            );
        }
        builder.samples
    }
}

/// One unit under way.
struct Work<'a, 'b> {
    unit: Unit,
    batch: RecordBatch,
    /// The rows to use, permuted.
    order: Vec<u32>,
    key: MaskKey,
    encoder: &'b mut Encoder<'a>,
    cancelled: &'b dyn Fn() -> bool,
}
