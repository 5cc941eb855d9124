//! k-fold: every row is held out once, whatever the seed, and what is held out was not seen.
#![allow(clippy::unwrap_used)]

mod shared;

use corpus::{Batch, Corpus, ErrorKind, Loader};
use shared::{config, tokenizer};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use types::{Cursor, SlotId, Step};

fn write(folder: &Path, name: &str, contents: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

/// The texts that are trained on in an epoch, and those that are held out.
fn sides(settings: &str, path: &str, rows: usize) -> (Vec<String>, Vec<String>) {
    let config = config(&format!("{settings} batch.slots=1 batch.micro_batch=1"), &[path]);
    let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let texts = |batches: &[Batch]| -> Vec<String> {
        let rows = batches.iter().flat_map(|batch| batch.ids.chunks(batch.sequence_length));
        rows.map(|row| tokenizer().decode(&row.iter().map(|id| *id as u32).collect::<Vec<_>>()).unwrap()).collect()
    };
    let held = texts(&loader.eval_batches(10_000).unwrap());
    let trained: Vec<Batch> =
        (1..=(rows - held.len()) as u64).flat_map(|step| loader.next(SlotId(0), Step(step)).unwrap().batches).collect();
    (texts(&trained), held)
}

const CLASSIFY: &str = "objective.kind=classify data.label_column=label data.unit_rows=7";

#[test]
fn every_row_is_held_out_once_and_equal_texts_together() {
    let folder = tempfile::tempdir().unwrap();
    // 90 texts, the first thirty of them three times.
    let rows: Vec<String> = (0..150).map(|row| format!("{} the cat,{}\n", row % 90 % 60, row % 2)).collect();
    let path = write(folder.path(), "a.csv", &format!("text,label\n{}", rows.concat()));
    let mut all = Vec::new();
    for fold in 0..4 {
        let (trained, held) = sides(&format!("{CLASSIFY} data.fold={fold} data.folds=4"), &path, 150);
        assert_eq!(trained.len() + held.len(), 150);
        assert!((34..=41).contains(&held.len()), "about a quarter: {}", held.len());
        let set = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<_>>();
        assert!(set(&trained).is_disjoint(&set(&held)));
        let (_, again) = sides(&format!("{CLASSIFY} data.fold={fold} data.folds=4 run.seed=9"), &path, 150);
        assert_eq!(set(&held), set(&again), "the seed does not say what is held out");
        // Nor does the order of the rows.
        let turned: String = rows.iter().rev().map(String::as_str).collect();
        let turned = write(folder.path(), "b.csv", &format!("text,label\n{turned}"));
        let (_, again) = sides(&format!("{CLASSIFY} data.fold={fold} data.folds=4"), &turned, 150);
        assert_eq!(set(&held), set(&again));
        all.extend(held);
    }
    let (mut all, mut expected) =
        (all, rows.iter().map(|row| row.split(',').next().unwrap().to_owned()).collect::<Vec<_>>());
    expected = expected.iter().map(|text| tokenizer_text(text)).collect();
    all.sort_unstable();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

/// As a batch decodes it.
fn tokenizer_text(text: &str) -> String {
    tokenizer().decode(&tokenizer().encode(text).unwrap()).unwrap()
}

#[test]
fn groups_and_tagged_sentences_have_folds_too() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..120).map(|row| format!("{row} the cat,{},g{}\n", row % 2, row % 17)).collect();
    let path = write(folder.path(), "a.csv", &format!("text,label,who\n{rows}"));
    let group =
        |text: &String| text.split(" the").next().unwrap().replace([' ', '#'], "").parse::<usize>().unwrap() % 17;
    let mut seen = BTreeSet::new();
    for fold in 0..3 {
        let settings = format!("{CLASSIFY} data.group_column=who data.fold={fold} data.folds=3");
        let (trained, held) = sides(&settings, &path, 120);
        let set = |texts: &[String]| texts.iter().map(group).collect::<BTreeSet<_>>();
        assert!(set(&trained).is_disjoint(&set(&held)) && !held.is_empty());
        assert!(set(&held).is_disjoint(&seen), "a group is held out once");
        seen.extend(set(&held));
    }
    assert_eq!(seen.len(), 17);

    let lines: String = (0..40).map(|row| format!("{row}/N the/D cat/N\n")).collect();
    let path = write(folder.path(), "a.pos", &lines);
    let held: usize =
        (0..2).map(|fold| sides(&format!("objective.kind=tag data.fold={fold} data.folds=2"), &path, 40).1.len()).sum();
    assert_eq!(held, 40);
}

#[test]
fn fewer_texts_than_folds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.csv", "text,label\ncat,0\ncat,1\ndog,1\n");
    let error = Corpus::open(&config(&format!("{CLASSIFY} data.fold=0 data.folds=3"), &[&path])).err().unwrap();
    let shown = error.to_string();
    assert_eq!(error.kind, ErrorKind::Empty, "{shown}");
    assert!(shown.contains("2 group(s) of rows cannot be cut into 3 folds") && shown.contains("data.folds"), "{shown}");
}
