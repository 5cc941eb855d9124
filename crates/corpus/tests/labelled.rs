//! Labelled data in every format: classes, pairs, tags.
#![allow(clippy::unwrap_used)]

mod shared;

use ::config::CheckedConfig;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, ListBuilder, StringBuilder};
use corpus::{
    Columns, Corpus, CorpusError, ErrorKind, FileSource, IGNORED, Labels, Loader, separate_batch, text_batch,
    word_batch,
};
use shared::{config, strings, tokenizer, write_parquet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use types::{Cursor, SlotId, Step};

fn write(folder: &Path, name: &str, contents: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

const CLASSIFY: &str =
    "objective.kind=classify data.label_column=label data.eval_fraction=0 batch.slots=1 batch.micro_batch=4";
const TAG: &str = "objective.kind=tag data.eval_fraction=0 batch.slots=1 batch.micro_batch=1";

/// What the first epoch holds: (text, class) in order of text.
fn classes(settings: &str, path: &str) -> (Vec<(String, String)>, Loader) {
    let config = config(settings, &[path]);
    let corpus = Arc::new(Corpus::open(&config).unwrap());
    let tokenizer = Arc::new(tokenizer());
    let mut loader = Loader::new(corpus.clone(), tokenizer.clone(), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let step = loader.next(SlotId(0), Step(1)).unwrap();
    let batch = &step.batches[0];
    let Labels::Class(labels) = &batch.labels else { panic!("{:?}", batch.labels) };
    let mut found: Vec<(String, String)> = labels
        .iter()
        .enumerate()
        .map(|(sample, label)| {
            let ids = &batch.ids[sample * batch.sequence_length..][..batch.sequence_length];
            let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
            (tokenizer.decode(&ids).unwrap(), corpus.labels()[*label as usize].clone())
        })
        .collect();
    found.sort();
    (found, loader)
}

#[test]
fn all_formats_give_the_same_classes() {
    let folder = tempfile::tempdir().unwrap();
    let expected: Vec<(String, String)> =
        [("cat sat", "good"), ("dog ran far", "bad"), ("the mat", "bad"), ("the sun", "good")]
            .map(|(text, label)| (text.to_owned(), label.to_owned()))
            .to_vec();
    let csv = "id,text,label\n1,cat sat,good\n2,\"dog ran\nfar\",bad\n3,the mat,bad\n4,the sun,good\n";
    let json = expected.iter().map(|(text, label)| serde_json::json!({"label": label, "text": text}).to_string());
    let jsonl = json.collect::<Vec<_>>().join("\n\n");
    let texts: Vec<Option<&str>> = expected.iter().map(|(text, _)| Some(text.as_str())).collect();
    let labels: Vec<Option<&str>> = expected.iter().map(|(_, label)| Some(label.as_str())).collect();
    let parquet =
        write_parquet(&folder.path().join("c.parquet"), &[("label", strings(&labels)), ("text", strings(&texts))], 3);
    for path in [write(folder.path(), "c.csv", csv), write(folder.path(), "c.jsonl", &jsonl), parquet] {
        assert_eq!(classes(CLASSIFY, &path).0, expected, "{path}");
    }
}

#[test]
fn labels_may_be_numbers_or_booleans_and_nulls_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let texts = strings(&[Some("cat"), Some("dog"), None, Some("mat"), Some("sun"), Some("far")]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(2), Some(2), None, Some(2), Some(0)]));
    let booleans: ArrayRef =
        Arc::new(BooleanArray::from(vec![Some(false), Some(true), Some(true), None, Some(true), Some(false)]));
    for (name, labels, known) in [("n", numbers, ["0", "2"]), ("b", booleans, ["false", "true"])] {
        let path = folder.path().join(format!("{name}.parquet"));
        let path = write_parquet(&path, &[("text", texts.clone()), ("label", labels)], 10);
        let (found, loader) = classes(CLASSIFY, &path);
        let expected = [("cat", 0), ("dog", 1), ("far", 0), ("sun", 1)];
        assert_eq!(found, expected.map(|(text, label)| (text.to_owned(), known[label].to_owned())).to_vec());
        assert!(loader.counts().null_rows.load(Ordering::Relaxed) >= 2);
    }
}

#[test]
fn rows_that_lack_a_text_or_a_label_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let open = |settings: &str, name: &str, contents: &str| {
        let path = write(folder.path(), name, contents);
        (Corpus::open(&config(settings, &[&path])).unwrap().warnings().to_vec(), path)
    };
    let told = |count: &str, path: &str, line: u64| {
        vec![format!("{count} rows have nothing in `text` or `label` and are left out; the first: {path}, line {line}")]
    };
    let whole = r#"{"text": "cat", "label": "a"}
        {"text": "dog", "label": "b"}"#;
    assert_eq!(open(CLASSIFY, "whole.jsonl", whole).0, [""; 0]);
    let lacking = r#"
        {"text": "sun", "lable": "a"}
        {"text": null, "label": "a"}"#;
    let (warnings, path) = open(CLASSIFY, "lacking.jsonl", &format!("{whole}{lacking}"));
    assert_eq!(warnings, told("2 of 4", &path, 3));
    // No sample is made of such a row, so its label may be any, and is no class.
    let (_, path) = open(CLASSIFY, "class.jsonl", &format!("{whole}\n{{\"text\": null, \"label\": \"c\"}}"));
    assert_eq!(Corpus::open(&config(CLASSIFY, &[&path])).unwrap().labels(), ["a", "b"]);
    let labels = format!("{CLASSIFY} objective.labels=[\"a\",\"b\"]");
    let (warnings, path) = open(&labels, "other.jsonl", &format!("{whole}\n{{\"text\": null, \"label\": \"c\"}}"));
    assert_eq!(warnings, told("1 of 3", &path, 3));
    let (warnings, path) = open(CLASSIFY, "lacking.csv", "text,label\ncat,a\ndog,b\nsun,\n");
    assert_eq!(warnings, told("1 of 3", &path, 4));
    let lists = r#"{"text": ["the", "cat"], "label": ["A", "N"]}
        {"text": [], "label": []}"#;
    let (warnings, path) = open(&format!("{TAG} data.label_column=label"), "lacking-tags.jsonl", lists);
    assert_eq!(warnings, told("1 of 2", &path, 2));
}

#[test]
fn rows_that_are_left_out_of_what_is_measured_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let learned = write(folder.path(), "l.csv", "text,label\ncat,a\ndog,b\nmat,a\n");
    let measured = write(folder.path(), "m.csv", "text,label\ncat,a\ndog,\n");
    let corpus = Corpus::open(&config(&format!("{CLASSIFY} data.eval_paths=[\"{measured}\"]"), &[&learned])).unwrap();
    let [told] = corpus.warnings() else { panic!("{:?}", corpus.warnings()) };
    assert!(told.starts_with("1 of 2 rows of `data.eval_paths` have nothing in `text` or `label`"), "{told}");
    assert!(corpus.unmeasured().is_none());
}

#[test]
fn files_of_which_every_row_is_left_out_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = write(folder.path(), "whole.csv", "text,label\ncat,a\ndog,b\n");
    let lacking = write(folder.path(), "lacking.csv", "text,label\ncat,\n,b\n");
    for (learned, measured, key) in [(&whole, &lacking, "data.eval_paths"), (&lacking, &whole, "data.paths")] {
        for labels in ["", "objective.labels=[\"a\",\"b\"]"] {
            let config = config(&format!("{CLASSIFY} {labels} data.eval_paths=[\"{measured}\"]"), &[learned]);
            // A run that has begun without anything to measure on goes on.
            let error = match Corpus::open(&config) {
                Ok(corpus) => corpus.unmeasured().cloned().unwrap(),
                Err(error) if learned == &lacking => error,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(error.kind, ErrorKind::Empty);
            let expected = format!(
                "{lacking}, line 2: this row and all others of `{key}` (2) have nothing in `text` or `label`\n  help: name"
            );
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn pairs_are_cut_at_the_longer_side() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec!["cat"; 50].join(" ");
    let rows = [("dog", long.as_str(), "a"), (&long, "dog ran", "b"), (&long, &long, "a"), ("sun", "mat", "b")];
    let lines: Vec<String> = rows
        .iter()
        .map(|(a, b, label)| serde_json::json!({"text": a, "other": b, "label": label}).to_string())
        .collect();
    let path = write(folder.path(), "p.jsonl", &lines.join("\n"));
    let config = config(&format!("{CLASSIFY} data.pair_column=other batch.sequence_length=16"), &[&path]);
    let corpus = Arc::new(Corpus::open(&config).unwrap());
    let mut loader = Loader::new(corpus, Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let batch = loader.next(SlotId(0), Step(1)).unwrap().batches.remove(0);
    let (segments, mask) = (batch.segment_ids.unwrap(), batch.mask.unwrap());
    let mut lengths: Vec<(usize, usize)> = (0..4)
        .map(|sample| {
            let range = sample * 16..(sample + 1) * 16;
            let real = range.clone().filter(|at| mask[*at]).count();
            let second = range.filter(|at| segments[*at] == 1).count();
            (real - second - 2, second - 1)
        })
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [(1, 1), (1, 12), (7, 6), (11, 2)]);
    assert!(loader.counts().truncated.load(Ordering::Relaxed) >= 3);
}

#[test]
fn tags_stand_on_the_first_piece_of_each_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut words = ListBuilder::new(StringBuilder::new());
    let mut tags = ListBuilder::new(StringBuilder::new());
    for (word, tag) in [("the", "DET"), ("farther", "ADV"), ("1/2", "NUM"), ("\u{7}", "X"), ("sunset", "NOUN")] {
        words.values().append_value(word);
        tags.values().append_value(tag);
    }
    words.append(true);
    tags.append(true);
    let parquet = write_parquet(
        &folder.path().join("t.parquet"),
        &[("text", Arc::new(words.finish()) as ArrayRef), ("tags", Arc::new(tags.finish()) as ArrayRef)],
        10,
    );
    let json = r#"{"text": ["the","farther","1/2","\u0007","sunset"], "tags": ["DET","ADV","NUM","X","NOUN"]}"#;
    let files = [
        (parquet, "data.label_column=tags"),
        (write(folder.path(), "t.jsonl", json), "data.label_column=tags"),
        (write(folder.path(), "t.pos", "the/DET farther/ADV 1/2/NUM \u{7}/X [sunset/NOUN]NP\n\n"), ""),
        (write(folder.path(), "brown01", "the/DET farther/ADV 1/2/NUM \u{7}/X sunset/NOUN"), "data.format=word-tag"),
    ];
    for (path, settings) in files {
        let config = config(&format!("{TAG} {settings}"), &[&path]);
        let corpus = Arc::new(Corpus::open(&config).unwrap());
        assert_eq!(corpus.labels(), ["ADV", "DET", "NOUN", "NUM", "X"]);
        let tokenizer = Arc::new(tokenizer());
        let mut loader = Loader::new(corpus, tokenizer.clone(), &config);
        loader.assign(&[(SlotId(0), Cursor::default())]);
        let batch = loader.next(SlotId(0), Step(1)).unwrap().batches.remove(0);
        let Labels::Tags(labels) = &batch.labels else { panic!("{:?}", batch.labels) };
        let tokens: Vec<String> = batch.ids.iter().map(|id| tokenizer.token(*id as u32).unwrap()).take(11).collect();
        // "1/2" has a slash that the vocabulary lacks.
        let pieces = ["[CLS]", "the", "far", "##ther", "1", "[UNK]", "2", "[UNK]", "sun", "##set", "[SEP]"];
        assert_eq!(tokens, pieces, "{path}");
        let i = IGNORED;
        assert_eq!(labels[..11], [i, 1, 0, i, 3, i, i, 4, 2, i, i], "{path}");
        assert!(labels[11..].iter().all(|label| *label == IGNORED));
    }
}

#[test]
fn long_sentences_are_cut_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "t.pos", &format!("{}cat/B", "farther/A ".repeat(20)));
    let config = config(&format!("{TAG} batch.sequence_length=8"), &[&path]);
    let corpus = Arc::new(Corpus::open(&config).unwrap());
    let mut loader = Loader::new(corpus, Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let batch = loader.next(SlotId(0), Step(1)).unwrap().batches.remove(0);
    let Labels::Tags(labels) = &batch.labels else { panic!("{:?}", batch.labels) };
    assert_eq!((batch.sequence_length, batch.mask.is_none()), (8, true));
    assert_eq!(labels, &[IGNORED, 0, IGNORED, 0, IGNORED, 0, IGNORED, IGNORED]);
    assert!(loader.counts().truncated.load(Ordering::Relaxed) >= 1);
}

#[test]
fn limited_rows_nest_and_keep_all_labels() {
    let folder = tempfile::tempdir().unwrap();
    let csv: String = (0..200).map(|row| format!("{row} the cat,{}\n", row % 7)).collect();
    let path = write(folder.path(), "l.csv", &format!("text,label\n{csv}"));
    let texts = |limit: usize| {
        let settings = format!("{CLASSIFY} data.limit_rows={limit} batch.micro_batch={limit}");
        let (found, _) = classes(&settings, &path);
        found.into_iter().map(|(text, _)| text).collect::<std::collections::BTreeSet<_>>()
    };
    let (few, more) = (texts(5), texts(20));
    assert_eq!((few.len(), more.len()), (5, 20));
    assert!(few.is_subset(&more));
    let corpus = Corpus::open(&config(&format!("{CLASSIFY} data.limit_rows=3"), &[&path])).unwrap();
    assert_eq!(corpus.labels().len(), 7, "whatever the limit");
}

/// What is said of a wrong label: whoever opens the files looks at all of them, whoever gets rows from elsewhere meets them
/// one by one.
fn refusals(config: &CheckedConfig) -> [CorpusError; 2] {
    let source = Arc::new(FileSource::open(&config.data.paths, &[], None, &Columns::of(config)).unwrap());
    let corpus = Corpus::with_source(config, source.files().to_vec(), source.clone()).unwrap();
    let mut loader = Loader::new(Arc::new(corpus), Arc::new(tokenizer()), config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    [Corpus::open(config).err().unwrap(), loader.next(SlotId(0), Step(1)).unwrap_err()]
}

#[test]
fn a_label_that_is_not_in_the_list_is_named_with_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "l.csv", "text,label\ncat,good\ndog,baad\nmat,bad\n");
    let config = config(&format!("{CLASSIFY} objective.labels=[\"good\",\"bad\"] batch.micro_batch=2"), &[&path]);
    for error in refusals(&config) {
        assert_eq!(error.kind, ErrorKind::Value);
        let expected = format!("{path}, line 3: `baad` is none of the 2 labels");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.to_string().contains("known: good, bad"), "{error}");
    }
}

#[test]
fn a_tag_that_is_not_in_the_list_is_named_with_the_line_of_its_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "t.conll", "the O\ncat O\n\nthe O\ndog B-X\nran B-Y\n");
    let config = config(&format!("{TAG} objective.labels=[\"O\",\"B-X\"] batch.micro_batch=2"), &[&path]);
    for error in refusals(&config) {
        assert_eq!(error.kind, ErrorKind::Value);
        let expected = format!("{path}, line 6: `B-Y` is none of the 2 labels\n");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn what_may_be_meant_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |rows: &str, more: &str| {
        let path = write(folder.path(), "l.csv", &format!("text,label\n{rows}"));
        let config = config(&format!("{CLASSIFY} batch.micro_batch=2 {more}"), &[&path]);
        Corpus::open(&config).unwrap().warnings().to_vec()
    };
    let labels = "objective.labels=[\"good\",\"bad\"]";
    assert_eq!(warnings("cat,good\ndog,bad\n", labels), [""; 0]);
    let unused = warnings("cat,good\ndog,good\n", labels);
    assert!(unused.len() == 1 && unused[0].contains("no row") && unused[0].contains("`bad`"), "{unused:?}");
    assert_eq!(warnings("cat,good\ndog,\" \"\n", "objective.labels=[\"good\",\"\\u0020\"]"), [""; 0], "it is listed");
    let alike = warnings("cat,POS\ndog,neg\nmat,pos\n", "");
    assert!(alike.len() == 1 && alike[0].contains("`POS` and `pos` differ in case or outer spaces alone"), "{alike:?}");
    let large = warnings("cat,1\ndog,80\n", "objective.regression=true");
    assert!(large.len() == 1 && large[0].contains("labels go up to 80"), "{large:?}");
}

#[test]
fn files_to_learn_from_without_a_row_are_counted_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, held_out) =
        (write(folder.path(), "e.csv", "text,label\n"), write(folder.path(), "h.csv", "text,label\ncat,good\n"));
    let config = config(&format!("{CLASSIFY} data.eval_paths=[\"{held_out}\"]"), &[&empty]);
    let error = Corpus::open(&config).err().unwrap().to_string();
    assert!(error.contains("not one row in 1 file(s)"), "{error}");
}

#[test]
fn files_to_measure_on_without_a_row_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "l.csv", "text,label\ncat,good\ndog,bad\n");
    let held_out = write(folder.path(), "e.csv", "text,label\n");
    let config = config(&format!("{CLASSIFY} data.eval_paths=[\"{held_out}\"]"), &[&path]);
    let error = Corpus::open(&config).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Empty);
    let error = error.to_string();
    assert!(error.starts_with(&format!("{held_out}: there is not one row in 1 file(s)")), "{error}");
    assert!(error.contains("`data.eval_paths`"), "{error}");
}

#[test]
fn one_row_of_which_a_share_is_to_be_held_out_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let open = |rows: usize, more: &str| {
        let path = write(folder.path(), "t.jsonl", &"{\"text\": \"the cat sat\"}\n".repeat(rows));
        Corpus::open(&config(&format!("objective.kind=mlm {more}"), &[&path]))
    };
    let alone = open(1, "").unwrap();
    assert!(alone.plan().eval_units().is_empty());
    let [said] = alone.warnings() else { panic!("{:?}", alone.warnings()) };
    for part in ["only one row", "data.eval_fraction", "data.eval_paths"] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    assert_eq!(open(1, "data.eval_fraction=0").unwrap().warnings(), [""; 0], "it is meant");
    assert_eq!(open(2, "").unwrap().warnings(), [""; 0], "one of two is held out");
    let error = open(1, "eval.patience=2").err().unwrap().to_string();
    assert!(error.contains("only one row") && error.contains("leave out eval.patience"), "{error}");
}

#[test]
fn numbers_with_a_fraction_are_classes_only_if_they_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let open = |labels: [&str; 3], more: &str| {
        let lines = labels.map(|label| format!("{{\"text\": \"the cat\", \"label\": {label}}}\n"));
        let path = write(folder.path(), "l.jsonl", &lines.concat());
        (Corpus::open(&config(&format!("{CLASSIFY} {more}"), &[&path])), path)
    };
    let (refused, path) = open(["1.0", "0.5", "\" 2.5\""], "");
    let error = refused.err().unwrap().to_string();
    assert!(error.starts_with(&format!("{path}, line 2: `0.5` is a number with a fraction")), "{error}");
    assert!(error.contains("line 3: ` 2.5` is a number") && !error.contains("line 1"), "{error}");
    assert!(error.contains("objective.regression = true") && error.contains("objective.labels"), "{error}");
    let listed = open(["1.0", "0.5", "0.5"], "objective.labels=[\"0.5\",\"1.0\"]").0.unwrap();
    assert_eq!(listed.labels(), ["0.5", "1.0"]);
    open(["1.0", "0.5", "0.5"], "objective.regression=true").0.unwrap();
    for labels in [["1.0", "2.0", "3"], ["\"v1.5\"", "\"NaN\"", "\"inf\""]] {
        open(labels, "").0.unwrap();
    }
}

#[test]
fn what_helps_all_rows_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "l.csv", "text,label\ncat,good\ndog,baad\nmat,baad\nhat,bed\n");
    let config = config(&format!("{CLASSIFY} objective.labels=[\"good\",\"bad\"] batch.micro_batch=2"), &[&path]);
    let error = Corpus::open(&config).err().unwrap().to_string();
    assert!(error.contains("line 3: `baad`") && error.contains("line 5: `bed`"), "{error}");
    assert_eq!(error.matches("known: good, bad").count(), 1, "{error}");
}

#[test]
fn each_fault_is_named_once_with_how_often_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let told = |rows: &str| {
        let path = write(folder.path(), "l.csv", &format!("text,label\n{rows}"));
        let config = config(&format!("{CLASSIFY} objective.labels=[\"good\",\"bad\"]"), &[&path]);
        (Corpus::open(&config).err().unwrap().to_string(), path)
    };
    let (error, path) = told(&format!("cat,good\n{}dog,bed\n", "mat,baad\n".repeat(400)));
    let expected = format!(
        "{path}, line 3: `baad` is none of the 2 labels (400 times, first here)\n{path}, line 403: `bed` is none \
         of the 2 labels\n  help: "
    );
    assert!(error.starts_with(&expected), "{error}");
    // Twelve different ones, each twice: ten have a name.
    let rows: String = (0..24).map(|row| format!("cat,label{}\n", row % 12)).collect();
    let (error, path) = told(&rows);
    assert_eq!(error.matches("(2 times, first here)").count(), 10, "{error}");
    assert!(error.contains(&format!("{path}, line 11: `label9` is")) && !error.contains("label10"), "{error}");
    assert!(error.contains("\n  and 4 more\n"), "{error}");
}

#[test]
fn each_fault_has_its_own_help_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "t.conll", "the O\ncat B-X\n\nthe B-Y\nsun C\n");
    let config = config(&format!("{TAG} objective.tag_scheme=bio objective.labels=[\"O\",\"B-X\"]"), &[&path]);
    let error = Corpus::open(&config).err().unwrap().to_string();
    let [unknown, help, wrong, other] = error.lines().collect::<Vec<_>>()[..] else { panic!("{error}") };
    assert!(unknown.starts_with(&format!("{path}, line 4: `B-Y` is none of the 2 labels")), "{error}");
    assert!(help.starts_with("  help: correct the row"), "{error}");
    assert!(wrong.starts_with(&format!("{path}, line 5: `C` is no tag of `bio`")), "{error}");
    assert!(other.starts_with("  help: ") && other.contains("tag_scheme"), "{error}");
}

#[test]
fn tags_that_continue_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |scheme: &str, rows: &str| {
        let path = write(folder.path(), "t.conll", &format!("the O\ncat B-X\nsat I-X\nsun I-X\n\n{rows}"));
        let config = config(&format!("{TAG} objective.tag_scheme={scheme}"), &[&path]);
        (Corpus::open(&config).unwrap().warnings().to_vec(), path)
    };
    assert_eq!(warnings("bio", "the B-X\ncat B-X\n").0, [""; 0]);
    let rows = "the I-X\ncat O\nsat I-X\nsun B-Y\nfar I-X\n";
    assert_eq!(warnings("plain", rows).0, [""; 0]);
    let (told, path) = warnings("bio", rows);
    let expected = format!("{path}, line 6: `I-X` follows no tag of its kind (3 such tags, the first here)");
    assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
    let (told, _) = warnings("bio", "cat O\nsat I-X\n");
    assert!(told[0].contains("line 7: `I-X`") && told[0].contains("the only such tag"), "{told:?}");
}

#[test]
fn a_label_without_words_is_to_be_given_some() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "l.csv", "text,label\ncat,good\ndog,baad\nmat,bad\n");
    let settings = "objective.kind=cloze objective.prompt=\"{text}[MASK]\" data.label_column=label \
                    data.eval_fraction=0 objective.verbalizers={good=[\"sun\"],bad=[\"far\"]}";
    let error = Corpus::open(&config(settings, &[&path])).err().unwrap().to_string();
    assert!(error.starts_with(&format!("{path}, line 3: `baad` is none of the 2 labels")), "{error}");
    assert!(error.contains("add it to [objective.verbalizers]") && !error.contains("objective.labels"), "{error}");
}

#[test]
fn predictions_are_built_as_training_samples_are() {
    let tokenizer = tokenizer();
    let (single, cut) = text_batch(&tokenizer, &["the cat sat", "dog"], None, 32).unwrap();
    assert_eq!(cut, [false, false]);
    assert_eq!((single.samples, single.sequence_length), (2, 8));
    assert!(single.segment_ids.is_none());
    assert_eq!(single.tokens(), 5 + 3);
    let (pairs, _) = text_batch(&tokenizer, &["the cat"], Some(&["dog"]), 32).unwrap();
    assert_eq!(pairs.segment_ids.unwrap(), [0, 0, 0, 0, 1, 1, 0, 0]);
    let (words, _) = word_batch(&tokenizer, &[vec!["farther", "sun"], vec!["the", "\u{7}", "sun"]], 32).unwrap();
    let Labels::Tags(labels) = words.labels else { panic!("no tags") };
    let numbers = |row: usize| labels[8 * row..8 * (row + 1)].iter().copied().filter(|tag| *tag != IGNORED);
    assert_eq!(numbers(0).collect::<Vec<_>>(), [0, 1], "one tag a word, however many pieces it has");
    assert_eq!(numbers(1).collect::<Vec<_>>(), [0, 1, 2], "also where the tokenizer keeps nothing of it");
    // What does not fit has no tag.
    let (words, cut) = word_batch(&tokenizer, &[vec!["the"; 20]], 8).unwrap();
    let Labels::Tags(labels) = words.labels else { panic!("no tags") };
    assert_eq!((labels.iter().filter(|tag| **tag != IGNORED).count(), cut), (6, vec![true]));
}

#[test]
fn what_was_cut_for_a_prediction_is_told() {
    let tokenizer = tokenizer();
    let (fits, long) = (vec!["the"; 6], vec!["the"; 7]);
    let texts = [fits.join(" "), long.join(" ")];
    let texts = texts.each_ref().map(String::as_str);
    assert_eq!(text_batch(&tokenizer, &texts, None, 8).unwrap().1, [false, true]);
    assert_eq!(text_batch(&tokenizer, &texts, Some(&["", ""]), 9).unwrap().1, [false, true]);
    assert_eq!(separate_batch(&tokenizer, &[(texts[0], texts[0]), (texts[0], texts[1])], 8).unwrap().1, [false, true]);
    assert_eq!(word_batch(&tokenizer, &[fits, long], 8).unwrap().1, [false, true]);
    // The last word has its tag, and not all of its pieces.
    let pieces = tokenizer.encode("farther").unwrap().len();
    assert!(pieces > 1);
    for (length, expected) in [(pieces + 2, false), (pieces + 1, true)] {
        assert_eq!(word_batch(&tokenizer, &[vec!["farther"]], length).unwrap().1, [expected], "{length}");
    }
}
