//! A small synthetic corpus, labelled sentences, and configs for them.

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const WORDS: usize = 60;

/// `vocab.txt`, `corpus.parquet` (text), `labelled.parquet` (text, label), `tagged.txt` and
/// `plainly-tagged.txt` (word/tag) in `folder`.
pub fn write(folder: &Path) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."].map(str::to_owned);
    let vocabulary: Vec<String> = special.into_iter().chain((0..WORDS).map(word)).collect();
    fs::write(folder.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let documents: Vec<String> = (0..160)
        .map(|_| {
            let sentences = random.random_range(3..8);
            (0..sentences).map(|_| sentence(&mut random)).collect::<Vec<_>>().join(" ")
        })
        .collect();
    parquet(&folder.join("corpus.parquet"), vec![("text", documents)]);
    let mut texts = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..160 {
        let class = random.random_range(0..3usize);
        // Each class has words of its own.
        let words: Vec<String> = (0..8).map(|_| word(class * 20 + random.random_range(0..20usize))).collect();
        texts.push(words.join(" "));
        labels.push(format!("class{class}"));
    }
    parquet(&folder.join("labelled.parquet"), vec![("text", texts), ("label", labels)]);
    let tagged: Vec<String> = (0..160)
        .map(|_| {
            let words: Vec<String> = (0..6)
                .flat_map(|_| {
                    let index = random.random_range(0..WORDS - 1);
                    match index % 3 {
                        0 => vec![format!("{}/B-X", word(index)), format!("{}/I-X", word(index + 1))],
                        1 => vec![format!("{}/B-Y", word(index))],
                        _ => vec![format!("{}/O", word(index))],
                    }
                })
                .collect();
            words.join(" ")
        })
        .collect();
    fs::write(folder.join("tagged.txt"), tagged.join("\n") + "\n").unwrap();
    let plainly: Vec<String> = (0..160)
        .map(|_| {
            let words: Vec<String> = (0..8)
                .map(|_| {
                    let index = random.random_range(0..WORDS);
                    format!("{}/{}", word(index), ["B-X", "I-X", "B-Y", "O"][index % 4])
                })
                .collect();
            words.join(" ")
        })
        .collect();
    fs::write(folder.join("plainly-tagged.txt"), plainly.join("\n") + "\n").unwrap();
}

fn parquet(path: &Path, columns: Vec<(&str, Vec<String>)>) {
    let columns = columns.into_iter().map(|(name, values)| (name, Arc::new(StringArray::from(values)) as ArrayRef));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn word(index: usize) -> String {
    let letters = [index / 10, index % 10].map(|digit| (b'a' + digit as u8) as char);
    format!("w{}{}", letters[0], letters[1])
}

fn sentence(random: &mut ChaCha8Rng) -> String {
    let start = random.random_range(0..WORDS);
    let length = random.random_range(4..10);
    // Neighbours follow each other, so that there is something to learn.
    let words: Vec<String> = (0..length).map(|place| word((start + place) % WORDS)).collect();
    words.join(" ") + " ."
}

/// BERT with masked words and next sentences, dropout on; `extra` adds or changes sections.
pub fn pretraining(extra: &str) -> String {
    format!(
        r#"
[run]
name = "test"
kind = "pretrain"
steps = 30
[data]
paths = ["corpus.parquet"]
unit_rows = 8
eval_fraction = 0.1
[tokenizer]
path = "vocab.txt"
[model]
layers = 2
hidden = 32
heads = 2
intermediate = 64
max_positions = 64
dropout = 0.1
[objective]
kind = "mlm_nsp"
[batch]
slots = 6
micro_batch = 2
accumulate = 2
sequence_length = 32
[checkpoint]
every_steps = 0
[eval]
every_steps = 15
samples = 24
{extra}
"#
    )
}

/// Fine-tuning on one of the labelled files.
pub fn finetuning(data: &str, objective: &str, init: &str) -> String {
    format!(
        r#"
[run]
name = "tuned"
kind = "finetune"
steps = 40
[data]
{data}
eval_fraction = 0.2
[tokenizer]
path = "vocab.txt"
[model]
layers = 2
hidden = 32
heads = 2
intermediate = 64
max_positions = 64
[init]
from = "{init}"
[objective]
{objective}
[batch]
slots = 4
micro_batch = 4
sequence_length = 32
[optimizer]
learning_rate = 3e-3
[eval]
every_steps = 0
"#
    )
}
