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

/// `vocab.txt`, `corpus.parquet` (text), `labelled.parquet` (text, label), `unlabelled.jsonl` (the same with no label),
/// `tagged.txt` and `plainly-tagged.txt` (word/tag) in `folder`.
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
    write_byte_level(folder);
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
    fs::write(folder.join("unlabelled.jsonl"), "{\"text\": \"a text\", \"label\": null}\n").unwrap();
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
    tasks(folder, &mut random);
}

/// `questions.json` and `questions-v2.json` (SQuAD: the answer is the one word of its kind, which the second lacks in
/// every third passage), `scored.jsonl` (text, score: the share of words of one kind), `pairs.jsonl` (text, other: words
/// of one of twelve kinds), `choices.jsonl` (text, question, two to five choices, right, kind: the right choice is of words
/// of its own).
fn tasks(folder: &Path, random: &mut ChaCha8Rng) {
    for (name, lacking) in [("questions.json", false), ("questions-v2.json", true)] {
        let articles: Vec<serde_json::Value> = (0..150)
            .map(|article| {
                // More than one window holds.
                let mut words: Vec<String> = (0..30).map(|_| word(random.random_range(0..50usize))).collect();
                let place = random.random_range(0..words.len());
                let answer = word(50 + random.random_range(0..10usize));
                let impossible = lacking && article % 3 == 0;
                if !impossible {
                    words[place] = answer.clone();
                }
                let start = words[..place].iter().map(|word| word.len() + 1).sum::<usize>();
                let right = serde_json::json!([{ "text": answer, "answer_start": start }]);
                let answers = if impossible { serde_json::json!([]) } else { right };
                let asked = serde_json::json!({ "question": word(3), "answers": answers, "is_impossible": impossible });
                let paragraph = serde_json::json!({ "context": words.join(" "), "qas": [asked] });
                serde_json::json!({ "title": format!("article {article}"), "paragraphs": [paragraph] })
            })
            .collect();
        fs::write(folder.join(name), serde_json::json!({ "data": articles }).to_string()).unwrap();
    }
    let lines = |lines: Vec<serde_json::Value>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let scored = (0..160).map(|_| {
        let of_kind = random.random_range(0..=8usize);
        let words: Vec<String> =
            (0..8).map(|at| word(random.random_range(0..30usize) + if at < of_kind { 30 } else { 0 })).collect();
        serde_json::json!({ "text": words.join(" "), "score": of_kind as f64 / 4.0 })
    });
    fs::write(folder.join("scored.jsonl"), lines(scored.collect())).unwrap();
    let pairs = (0..160).map(|_| {
        let kind = random.random_range(0..12usize);
        let mut text = || (0..5).map(|_| word(kind * 5 + random.random_range(0..5usize))).collect::<Vec<_>>().join(" ");
        serde_json::json!({ "text": text(), "other": text() })
    });
    fs::write(folder.join("pairs.jsonl"), lines(pairs.collect())).unwrap();
    let choices = (0..160).map(|row| {
        let mut some = |from: usize, words: usize| {
            let words = (0..words).map(|_| word(from + random.random_range(0..8usize)));
            words.collect::<Vec<_>>().join(" ")
        };
        let (text, question) = (some(row % 40, 5), some(3, 2));
        let mut choices: Vec<String> = (0..2 + row % 4).map(|at| some(at * 8, 3)).collect();
        let right = (row / 4) % choices.len();
        choices[right] = some(50, 3);
        serde_json::json!({ "text": text, "question": question, "choices": choices, "right": right, "kind": row % 9 })
    });
    fs::write(folder.join("choices.jsonl"), lines(choices.collect())).unwrap();
}

/// A vocabulary of RoBERTa's kind.
fn write_byte_level(folder: &Path) {
    let path = folder.join("corpus.parquet").display().to_string();
    let source = corpus::FileSource::open(&[path], &[], None, &corpus::Columns::text("text")).unwrap();
    let options = corpus::ByteLevelOptions { size: 300, min_frequency: 2 };
    let tokenizer = corpus::train_byte_level(&source, options, &mut |_, _| ()).unwrap();
    tokenizer.write_folder(&folder.join("byte-level")).unwrap();
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

/// The same with 3.4 million elements, which are four buckets of exact mode's sums, and fewer steps.
pub fn in_buckets(steps: u64) -> String {
    let steps = format!("steps = {steps}");
    let changes = [
        ("hidden = 32", "hidden = 256"),
        ("intermediate = 64", "intermediate = 1024"),
        ("layers = 2", "layers = 4"),
        ("accumulate = 2", "accumulate = 1"),
        ("steps = 30", steps.as_str()),
    ];
    changes.into_iter().fold(pretraining(""), |config, (from, to)| {
        assert!(config.contains(from), "no `{from}` to change");
        config.replacen(from, to, 1)
    })
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
