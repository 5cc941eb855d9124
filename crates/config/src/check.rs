//! From [`RunConfig`] to [`CheckedConfig`]: every rule that needs no file and no tensor.

mod choose;
mod cloze;
mod columns;
mod relatives;
mod sweep;
mod tasks;
mod tuning;

use crate::error::Problem;
use crate::{
    Architecture, ConfigError, Masking, ObjectiveKind, OptimizerKind, Packing, Padding, ReduceMode, RunConfig, RunKind,
};
use std::ops::Deref;

/// Exact mode adds at most so many gradients into one 64-bit sum, or it could overflow unseen: slots times forward
/// passes of a slot. The same as `kernels::fixed_point::MAX_CONTRIBUTIONS`, which this room cannot see.
pub const EXACT_CONTRIBUTIONS_MAX: u64 = 4096;
/// Samples that one slot holds in memory for one step.
const SLOT_SAMPLES_MAX: usize = 1 << 16;
/// Room for a pair of texts and its special tokens.
const SEQUENCE_LENGTH_MIN: usize = 8;
/// Longer than any BERT; a unit's blocks are made in memory.
const SEQUENCE_LENGTH_MAX: usize = 1 << 16;
/// With less, a step that takes a little longer than the others would look like a hanging worker.
const HANG_FACTOR: std::ops::RangeInclusive<u32> = 3..=10_000;
/// Random next sentences come from the other rows of a unit: with few of them, the model sees the same pairs of
/// neighbours again and again, and with one there is none.
const NEXT_SENTENCE_UNIT_ROWS_MIN: u64 = 8;
/// Units that wait in memory, for each slot.
const PREFETCH_UNITS_MAX: usize = 64;

/// What a run's name is taken for where a command takes a run, if not for that name.
fn other_meaning(name: &str) -> Option<&'static str> {
    let is_of_id = |(at, character): (usize, char)| match at {
        8 | 13 | 18 | 23 => character == '-',
        _ => character.is_ascii_hexdigit(),
    };
    match name {
        "latest" => Some("the newest run"),
        _ if name.len() == 36 && name.chars().enumerate().all(is_of_id) => Some("a run's id"),
        _ => None,
    }
}

/// A config that obeys every rule which can be checked without opening a file.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedConfig(RunConfig);

impl Deref for CheckedConfig {
    type Target = RunConfig;

    fn deref(&self) -> &RunConfig {
        &self.0
    }
}

impl CheckedConfig {
    /// Workers that the run can use at most: `run.max_workers`, else one for each slot.
    pub fn max_workers(&self) -> u32 {
        self.run.max_workers.unwrap_or(self.batch.slots)
    }
}

impl RunConfig {
    /// Checks every rule and reports every breach at once.
    pub fn check(self, source_name: &str) -> Result<CheckedConfig, ConfigError> {
        let mut problems = Vec::new();
        let mut rule = |holds: bool, key: &str, message: String, help: &str| {
            if !holds {
                problems.push(Problem::at_key(key, message, help));
            }
        };
        let run = &self.run;
        rule(
            run.name.parse::<types::RunId>().is_ok(),
            "run.name",
            format!("`{}` is no name", run.name),
            "use 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit",
        );
        let meant = other_meaning(&run.name);
        rule(
            meant.is_none(),
            "run.name",
            format!("commands that take a run read `{}` as {}", run.name, meant.unwrap_or_default()),
            "choose another name",
        );
        rule(run.steps > 0, "run.steps", "is 0".into(), "give the number of optimizer steps");
        let kind = self.objective.kind;
        for (is_set, with) in [
            (!kind.masks() || kind.has_pairs(), format!("objective.kind = \"{}\"", kind.as_str())),
            (self.objective.packing != Packing::Blocks, "an objective.packing other than `blocks`".to_owned()),
            (self.batch.padding == Padding::Unpadded, "batch.padding = \"unpadded\"".to_owned()),
            (run.activation_checkpointing, "run.activation_checkpointing".to_owned()),
            (self.reduce.mode == ReduceMode::Fast, "reduce.mode = \"fast\"".to_owned()),
        ] {
            rule(
                !(run.cuda_graphs && is_set),
                "run.cuda_graphs",
                format!("does not go with {with}"),
                "leave one of them out: docs/guide/cuda.md says why",
            );
        }
        rule(run.min_workers > 0, "run.min_workers", "is 0".into(), "a run needs at least one worker");
        rule(
            run.min_workers <= self.batch.slots,
            "run.min_workers",
            format!("{} workers cannot share {} slots", run.min_workers, self.batch.slots),
            "raise `batch.slots` or lower `run.min_workers`: each worker needs at least one slot",
        );
        if let Some(max) = run.max_workers {
            rule(
                max >= run.min_workers,
                "run.max_workers",
                format!("{max} is less than run.min_workers = {}", run.min_workers),
                "raise it, or leave it out",
            );
            rule(
                max <= self.batch.slots,
                "run.max_workers",
                format!("{max} workers cannot share {} slots", self.batch.slots),
                "raise `batch.slots` or lower `run.max_workers`: each worker needs at least one slot",
            );
        }
        self.check_data(&mut rule);
        self.check_columns(&mut rule);
        self.check_model(&mut rule);
        self.check_objective(&mut rule);
        self.check_relatives(&mut rule);
        self.check_tasks(&mut rule);
        self.check_cloze(&mut rule);
        self.check_choose(&mut rule);
        self.check_folds(&mut rule);
        self.check_sweep(&mut rule);
        self.check_learning(&mut rule);
        self.check_tuning(&mut rule);
        if problems.is_empty() {
            Ok(CheckedConfig(self))
        } else {
            Err(ConfigError { source_name: source_name.to_owned(), problems })
        }
    }

    fn check_data(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let data = &self.data;
        rule(!data.paths.is_empty(), "data.paths", "is empty".into(), "name at least one file, glob or URL");
        rule(
            (0.0..=0.5).contains(&data.eval_fraction),
            "data.eval_fraction",
            format!("{} is outside 0 to 0.5", data.eval_fraction),
            "0.02 holds out one unit in fifty",
        );
        rule(data.unit_rows != Some(0), "data.unit_rows", "is 0".into(), "leave it out for the default");
        rule(
            !self.objective.kind.has_pairs()
                || data.unit_rows.is_none_or(|rows| rows == 0 || rows >= NEXT_SENTENCE_UNIT_ROWS_MIN),
            "data.unit_rows",
            format!(
                "{} rows are too few for `{}`, which takes its random second sentences from the same unit",
                data.unit_rows.unwrap_or_default(),
                self.objective.kind.as_str()
            ),
            "32 or more mix well; leave it out for the default, or set objective.kind = \"mlm\"",
        );
        rule(data.limit_rows != Some(0), "data.limit_rows", "is 0".into(), "leave it out for all rows");
        rule(
            data.limit_rows.is_none() || self.run.kind == RunKind::Finetune,
            "data.limit_rows",
            "is for labelled data only".into(),
            "leave it out, or set run.kind = \"finetune\"",
        );
        rule(
            data.prefetch_units <= PREFETCH_UNITS_MAX,
            "data.prefetch_units",
            format!("{} is more than {PREFETCH_UNITS_MAX}", data.prefetch_units),
            "1 is usual: every unit that waits is kept in memory",
        );
        rule(
            !self.tokenizer.path.is_empty(),
            "tokenizer.path",
            "is empty".into(),
            "name a tokenizer.json, vocab.txt or vocab.json",
        );
        let batch = &self.batch;
        rule(batch.slots > 0, "batch.slots", "is 0".into(), "8 is a good number for up to 8 workers");
        rule(
            batch.slots <= 2048,
            "batch.slots",
            format!("{} is more than 2048", batch.slots),
            "use larger micro-batches",
        );
        rule(batch.micro_batch > 0, "batch.micro_batch", "is 0".into(), "give samples per forward pass");
        rule(batch.accumulate > 0, "batch.accumulate", "is 0".into(), "1 means no accumulation");
        rule(
            batch.micro_batch.checked_mul(batch.accumulate).is_some_and(|samples| samples <= SLOT_SAMPLES_MAX),
            "batch.micro_batch",
            format!(
                "{} × batch.accumulate = {} is more than {SLOT_SAMPLES_MAX} samples of one slot in one step",
                batch.micro_batch, batch.accumulate
            ),
            "use more slots, or smaller micro-batches",
        );
        let contributions = u64::from(batch.slots).saturating_mul(batch.accumulate as u64);
        rule(
            self.reduce.mode == ReduceMode::Fast || contributions <= EXACT_CONTRIBUTIONS_MAX,
            "batch.accumulate",
            format!(
                "{} slots × {} forward passes are {contributions} gradients a step; exact mode adds up to \
                 {EXACT_CONTRIBUTIONS_MAX}",
                batch.slots, batch.accumulate
            ),
            "raise `batch.micro_batch` and lower `batch.accumulate` or `batch.slots`, or set reduce.mode = \"fast\"",
        );
        for (key, other, breach) in [
            ("batch.ramp_from", "batch.ramp_share", batch.ramp_from.is_some() && batch.ramp_share.is_none()),
            ("batch.ramp_share", "batch.ramp_from", batch.ramp_share.is_some() && batch.ramp_from.is_none()),
            ("batch.short_length", "batch.short_share", batch.short_length.is_some() && batch.short_share.is_none()),
            ("batch.short_share", "batch.short_length", batch.short_share.is_some() && batch.short_length.is_none()),
        ] {
            rule(!breach, key, format!("needs `{other}`"), "give both, or neither");
        }
        if let Some(from) = batch.ramp_from {
            rule(
                (1..batch.accumulate.max(1)).contains(&from),
                "batch.ramp_from",
                format!("{from} is not at least 1 and less than batch.accumulate = {}", batch.accumulate),
                "the batch grows from the one to the other; raise `batch.accumulate`, and lower `batch.micro_batch`",
            );
        }
        if let Some(share) = batch.ramp_share {
            rule(
                share > 0.0 && share <= 1.0,
                "batch.ramp_share",
                format!("{share} is not more than 0 and at most 1"),
                "it is the share of run.steps in which the batch grows",
            );
        }
        if let Some(short) = batch.short_length {
            rule(
                self.objective.kind == ObjectiveKind::Mlm,
                "batch.short_length",
                "is for objective.kind = \"mlm\": only packed blocks can be cut".into(),
                "leave it out",
            );
            rule(
                (SEQUENCE_LENGTH_MIN..batch.sequence_length).contains(&short)
                    && batch.sequence_length.is_multiple_of(short),
                "batch.short_length",
                format!(
                    "{short} does not cut batch.sequence_length = {} into equal rows of {SEQUENCE_LENGTH_MIN} tokens or \
                     more",
                    batch.sequence_length
                ),
                "128 goes with a sequence_length of 512, for example",
            );
        }
        if let Some(share) = batch.short_share {
            rule(
                share > 0.0 && share < 1.0,
                "batch.short_share",
                format!("{share} is not between 0 and 1"),
                "it is the share of run.steps in which rows are short; 0.9 is BERT's",
            );
        }
        rule(
            (SEQUENCE_LENGTH_MIN..=SEQUENCE_LENGTH_MAX).contains(&batch.sequence_length),
            "batch.sequence_length",
            format!("{} is outside {SEQUENCE_LENGTH_MIN} to {SEQUENCE_LENGTH_MAX}", batch.sequence_length),
            "128 is usual",
        );
    }

    fn check_model(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let shape = self.model.shape(30_522, self.batch.sequence_length as i64);
        for (key, value) in [
            ("model.layers", shape.layers),
            ("model.hidden", shape.hidden),
            ("model.heads", shape.heads),
            ("model.embedding", shape.embedding_width()),
            ("model.intermediate", shape.intermediate),
            ("model.vocabulary", shape.vocabulary),
            ("model.max_positions", shape.max_positions),
        ] {
            rule(value > 0, key, format!("{value} is not positive"), "leave it out for the size's own value");
        }
        rule(
            shape.heads > 0 && shape.hidden % shape.heads.max(1) == 0,
            "model.heads",
            format!("{} heads do not divide hidden = {}", shape.heads, shape.hidden),
            "choose a divisor of model.hidden",
        );
        rule(
            shape.architecture != Architecture::Modern || (shape.hidden / shape.heads.max(1)) % 2 == 0,
            "model.heads",
            "rotary positions need an even head width".into(),
            "make model.hidden / model.heads even",
        );
        rule(
            self.batch.sequence_length as i64 <= shape.max_positions,
            "batch.sequence_length",
            format!("{} is more than model.max_positions = {}", self.batch.sequence_length, shape.max_positions),
            "raise model.max_positions or shorten the sequence",
        );
        for (key, value) in [("model.dropout", shape.dropout), ("model.attention_dropout", shape.attention_dropout)] {
            rule(
                (0.0..1.0).contains(&value),
                key,
                format!("{value} is outside 0 to 1"),
                "0.1 is usual, 0 turns it off",
            );
        }
        for (key, value) in [
            ("model.initializer_range", shape.initializer_range),
            ("model.layer_norm_epsilon", shape.layer_norm_epsilon),
            ("model.rope_theta", shape.rope_theta),
        ] {
            rule(
                value.is_finite() && value > 0.0,
                key,
                format!("{value} is not a positive number"),
                "leave it out for the default",
            );
        }
        let model = &self.model;
        if let Some(every) = model.global_attn_every_n_layers {
            rule(
                every > 0,
                "model.global_attn_every_n_layers",
                format!("{every} is not positive"),
                "3 is ModernBERT's; 1 has every layer attend globally",
            );
        }
        for (key, given) in [
            ("model.global_attn_every_n_layers", model.global_attn_every_n_layers.is_some()),
            ("model.local_attention", model.local_attention.is_some()),
            ("model.local_rope_theta", model.local_rope_theta.is_some()),
        ] {
            // Where the model comes from elsewhere, its architecture need not be said.
            rule(
                !given || !self.init.from.is_empty() || model.architecture == Architecture::Modern,
                key,
                "is for model.architecture = \"modern\"".into(),
                "leave it out",
            );
            rule(
                !given || model.global_attn_every_n_layers.is_some(),
                key,
                "needs `model.global_attn_every_n_layers`".into(),
                "3 is ModernBERT's",
            );
        }
        if let Some(local) = shape.local_attention {
            rule(
                local.window >= 2 && local.window % 2 == 0,
                "model.local_attention",
                format!("{} is not an even number of at least 2", local.window),
                "128 is ModernBERT's: 64 tokens on either side",
            );
            rule(
                local.rope_theta.is_finite() && local.rope_theta > 0.0,
                "model.local_rope_theta",
                format!("{} is not a positive number", local.rope_theta),
                "leave it out for the default",
            );
        }
        if let Err(message) = self.init.source() {
            rule(false, "init.from", message, "for example `run:bert-mini` or `hf:models/minilm`");
        }
    }

    fn check_objective(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let objective = &self.objective;
        let supervised = objective.kind.is_supervised();
        rule(
            supervised == (self.run.kind == RunKind::Finetune),
            "objective.kind",
            format!("does not go with run.kind = \"{}\"", self.run.kind.as_str()),
            "finetune: `classify`, `tag`, `answer`, `match`, `cloze` or `choose`; pretrain: the others",
        );
        for (key, value) in [
            ("objective.mask_rate", objective.mask_rate),
            ("objective.mask_token_share", objective.mask_token_share),
            ("objective.random_token_share", objective.random_token_share),
            ("objective.short_sequence_probability", objective.short_sequence_probability),
        ] {
            rule((0.0..=1.0).contains(&value), key, format!("{value} is outside 0 to 1"), "give a share");
        }
        rule(objective.mask_rate > 0.0, "objective.mask_rate", "is 0".into(), "0.15 is BERT's");
        if let Some(rate) = objective.final_mask_rate {
            rule(
                rate > 0.0 && rate <= 1.0,
                "objective.final_mask_rate",
                format!("{rate} is not more than 0 and at most 1"),
                "0.15 is BERT's; leave it out to stay at objective.mask_rate",
            );
            rule(!supervised, "objective.final_mask_rate", "is for objectives that mask words".into(), "leave it out");
        }
        rule(
            objective.masking == Masking::Word || !supervised,
            "objective.masking",
            "is for objectives that mask words".into(),
            "leave it out",
        );
        rule(
            objective.masking == Masking::Word || objective.ngram_max == 1,
            "objective.masking",
            "does not go with objective.ngram_max: both choose how many words are masked together".into(),
            "leave one of them out",
        );
        rule(
            !objective.span_boundary || (objective.kind == ObjectiveKind::Mlm && objective.masking == Masking::Span),
            "objective.span_boundary",
            "is for objective.kind = \"mlm\" with objective.masking = \"span\"".into(),
            "leave it out, or set both",
        );
        rule(
            objective.word_segmenter.is_none() || !supervised,
            "objective.word_segmenter",
            "is for objectives that mask words".into(),
            "leave it out",
        );
        rule(
            objective.word_segmenter.is_none()
                || supervised
                || objective.whole_word
                || objective.masking == Masking::Span,
            "objective.word_segmenter",
            "says what a word is, but tokens are masked one by one".into(),
            "set objective.whole_word = true, or objective.masking = \"span\"",
        );
        rule(
            objective.packing == Packing::Blocks || objective.kind == ObjectiveKind::Mlm,
            "objective.packing",
            "is for objective.kind = \"mlm\"".into(),
            "leave it out: `mlm_nsp` makes pairs of sentences",
        );
        rule(
            objective.packing == Packing::Blocks || self.batch.short_length.is_none(),
            "objective.packing",
            "does not go with batch.short_length: only packed blocks can be cut".into(),
            "leave one of them out",
        );
        rule(
            objective.mask_token_share + objective.random_token_share <= 1.0 + 1e-9,
            "objective.random_token_share",
            "with mask_token_share it is more than 1".into(),
            "BERT's are 0.8 and 0.1",
        );
        let classify = objective.kind == ObjectiveKind::Classify;
        rule(
            !classify || self.data.label_column.is_some(),
            "data.label_column",
            "is missing".into(),
            "name the column that holds the class",
        );
        rule(
            objective.labels.len() != 1,
            "objective.labels",
            "has one label".into(),
            "give at least two, or none to find them",
        );
        let twice = objective.labels.iter().enumerate().find(|(at, label)| objective.labels[..*at].contains(label));
        rule(
            twice.is_none(),
            "objective.labels",
            format!("`{}` stands there twice", twice.map_or("", |(_, label)| label)),
            "name each label once, in the order of the model's outputs",
        );
    }

    fn check_learning(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let optimizer = &self.optimizer;
        for (key, value) in [
            ("optimizer.learning_rate", optimizer.learning_rate),
            ("optimizer.epsilon", optimizer.epsilon),
            ("optimizer.muon_learning_rate", optimizer.muon_learning_rate),
        ] {
            rule(
                value.is_finite() && value > 0.0,
                key,
                format!("{value} is not positive"),
                "leave it out for the default",
            );
        }
        for (key, value) in [
            ("optimizer.beta1", optimizer.beta1),
            ("optimizer.beta2", optimizer.beta2),
            ("optimizer.muon_momentum", optimizer.muon_momentum),
        ] {
            rule(
                (0.0..1.0).contains(&value),
                key,
                format!("{value} is outside 0 to 1"),
                "leave it out for the default",
            );
        }
        for (key, value) in
            [("optimizer.weight_decay", optimizer.weight_decay), ("optimizer.clip_norm", optimizer.clip_norm)]
        {
            rule(value.is_finite() && value >= 0.0, key, format!("{value} is negative"), "0 turns it off");
        }
        if let Some(decay) = optimizer.ema_decay {
            rule(
                decay > 0.0 && decay < 1.0,
                "optimizer.ema_decay",
                format!("{decay} is not between 0 and 1"),
                "0.999 averages about the last thousand updates; leave it out for no average",
            );
        }
        rule(
            optimizer.kind != OptimizerKind::Muon || optimizer.muon_iterations > 0,
            "optimizer.muon_iterations",
            "is 0".into(),
            "5 is usual",
        );
        let schedule = &self.schedule;
        rule(
            (0.0..=1.0).contains(&schedule.warmup),
            "schedule.warmup",
            format!("{} is outside 0 to 1", schedule.warmup),
            "it is a share of run.steps",
        );
        if let Some(hold) = schedule.hold {
            rule(
                (schedule.warmup..=1.0).contains(&hold),
                "schedule.hold",
                format!("{hold} is outside schedule.warmup to 1"),
                "it is the share of run.steps at which the way down begins",
            );
        }
        rule(
            (0.0..=1.0).contains(&schedule.final_ratio),
            "schedule.final_ratio",
            format!("{} is outside 0 to 1", schedule.final_ratio),
            "0 ends at nothing",
        );
        rule(
            schedule.power > 0.0 && schedule.power.is_finite(),
            "schedule.power",
            format!("{} is not a positive number", schedule.power),
            "1 is a straight line",
        );
        rule(
            (16..=50).contains(&self.reduce.fraction_bits),
            "reduce.fraction_bits",
            format!("{} is outside 16 to 50", self.reduce.fraction_bits),
            "44 suits normalised losses",
        );
        rule(
            self.reduce.mode == ReduceMode::Fast || self.reduce.compression == crate::Compression::None,
            "reduce.compression",
            "is for reduce.mode = \"fast\"".into(),
            "leave it out in exact mode",
        );
        rule(self.checkpoint.keep_latest > 0, "checkpoint.keep_latest", "is 0".into(), "keep at least one");
        rule(self.eval.samples > 0, "eval.samples", "is 0".into(), "leave it out for the default");
        let recovery = &self.recovery;
        rule(
            recovery.max_skipped_steps > 0,
            "recovery.max_skipped_steps",
            "is 0".into(),
            "1 gives up at the first step that is skipped",
        );
        rule(
            HANG_FACTOR.contains(&recovery.hang_factor),
            "recovery.hang_factor",
            format!("{} is outside {} to {}", recovery.hang_factor, HANG_FACTOR.start(), HANG_FACTOR.end()),
            "10 is usual",
        );
    }
}
