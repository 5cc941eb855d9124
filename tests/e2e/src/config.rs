//! Configs of runs that take seconds.

use crate::Corpus;

/// A tiny BERT with dropout, on sentence pairs; 30 steps of 6 slots.
pub fn pretraining(corpus: &Corpus) -> String {
    format!(
        r#"
[run]
name = "tiny"
kind = "pretrain"
steps = 30
seed = 11

[data]
paths = ["{text}"]
unit_rows = 20
eval_fraction = 0.1

[tokenizer]
path = "{vocabulary}"

[model]
layers = 2
hidden = 64
heads = 2
intermediate = 128
dropout = 0.1

[objective]
kind = "mlm_nsp"

[batch]
slots = 6
micro_batch = 4
sequence_length = 32

[optimizer]
learning_rate = 1e-3

[checkpoint]
every_steps = 10
keep_latest = 10

[eval]
every_steps = 15
samples = 32
"#,
        text = corpus.text.display(),
        vocabulary = corpus.vocabulary.display()
    )
}

/// Overrides that make a step of [`pretraining`] take some tenths of a second on one thread, so that something can happen
/// in the middle of a run.
pub const SLOW: [&str; 5] =
    ["model.layers=4", "model.hidden=192", "model.intermediate=768", "batch.micro_batch=8", "batch.sequence_length=64"];
