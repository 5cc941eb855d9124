//! Multiple choice: read from all formats, cut, and refused with the row and what to do.
#![allow(clippy::unwrap_used)]

mod shared;

use arrow::array::{ArrayRef, Int64Array, ListBuilder, StringBuilder, StructArray};
use arrow::datatypes::Field;
use corpus::{Batch, Corpus, Labels, Loader, choice_batch};
use shared::{config, strings, tokenizer, write_parquet};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use types::{Cursor, SlotId, Step};

const LIST: &str = "objective.kind=choose data.pair_column=question data.choice_columns=[\"choices\"] \
                    data.label_column=label data.eval_fraction=0 batch.slots=1 batch.micro_batch=2";

/// The same with a column for each choice.
fn columns() -> String {
    LIST.replace("[\"choices\"]", "[\"c0\",\"c1\",\"c2\"]")
}

fn write(folder: &Path, name: &str, contents: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

fn refused(settings: &str, path: &str) -> String {
    match Corpus::open(&config(settings, &[path])) {
        Ok(_) => panic!("{path} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn loader(settings: &str, path: &str) -> Loader {
    let config = config(settings, &[path]);
    let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    loader
}

fn batch(settings: &str, path: &str) -> Batch {
    loader(settings, path).next(SlotId(0), Step(1)).unwrap().batches.remove(0)
}

/// Each row as its tokens, the second segment behind a bar.
fn rows(batch: &Batch) -> Vec<String> {
    let (tokenizer, length) = (tokenizer(), batch.sequence_length);
    let segments = batch.segment_ids.as_ref().unwrap();
    (0..batch.samples)
        .map(|row| {
            let at = row * length;
            let real =
                batch.mask.as_ref().map_or(length, |mask| mask[at..at + length].iter().filter(|it| **it).count());
            let token = |place: usize| tokenizer.token(batch.ids[place] as u32).unwrap();
            let (first, second): (Vec<_>, Vec<_>) = (at..at + real).partition(|place| segments[*place] == 0);
            [first, second].map(|part| part.into_iter().map(token).collect::<Vec<_>>().join(" ")).join(" | ")
        })
        .collect()
}

fn labels(batch: &Batch) -> (Vec<i64>, Vec<i64>) {
    let Labels::Choice { counts, right } = &batch.labels else { panic!("{:?}", batch.labels) };
    (counts.clone(), right.clone())
}

fn list(items: &[&[&str]]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for items in items {
        items.iter().for_each(|item| lists.values().append_value(item));
        lists.append(true);
    }
    Arc::new(lists.finish())
}

#[test]
fn all_formats_give_the_same_choices() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = || strings(&[Some("the cat sat"), Some("a dog")]);
    let question = || strings(&[Some("on a"), Some("ran")]);
    let texts = list(&[&["mat", "sun", "dog"], &["far", "sat"]]);
    let letters = list(&[&["A", "B", "C"], &["1", "2"]]);
    let field = |name: &str, list: &ArrayRef| Arc::new(Field::new(name, list.data_type().clone(), true));
    let both = StructArray::from(vec![(field("text", &texts), texts.clone()), (field("label", &letters), letters)]);
    let list = LIST.to_owned();
    let files = [
        (
            &list,
            write(
                folder.path(),
                "list.jsonl",
                r#"{"text": "the cat sat", "question": "on a", "choices": ["mat", "sun", "dog"], "label": 1}
                {"text": "a dog", "question": "ran", "choices": ["far", "sat"], "label": "far"}"#,
            ),
        ),
        (
            &list,
            write(
                folder.path(),
                "both.jsonl",
                r#"{"text": "the cat sat", "question": "on a", "choices": {"text": ["mat", "sun", "dog"], "label": ["A", "B", "C"]}, "label": "B"}
                {"text": "a dog", "question": "ran", "choices": {"label": [1, 2], "text": ["far", "sat"]}, "label": 1}"#,
            ),
        ),
        (
            &list,
            write_parquet(
                &at("list.parquet"),
                &[
                    ("text", text()),
                    ("choices", texts),
                    ("label", Arc::new(Int64Array::from(vec![1, 0]))),
                    ("question", question()),
                ],
                9,
            ),
        ),
        (
            &list,
            write_parquet(
                &at("both.parquet"),
                &[
                    ("label", strings(&[Some("B"), Some("1")])),
                    ("choices", Arc::new(both)),
                    ("text", text()),
                    ("question", question()),
                ],
                9,
            ),
        ),
        (
            &columns(),
            write(
                folder.path(),
                "columns.csv",
                "c0,c1,c2,question,text,label\nmat,sun,dog,on a,the cat sat,b\nfar,sat,,ran,a dog,0\n",
            ),
        ),
        (
            &columns(),
            write(
                folder.path(),
                "columns.jsonl",
                r#"{"text": "the cat sat", "question": "on a", "c0": "mat", "c1": "sun", "c2": "dog", "label": "B"}
                {"text": "a dog", "question": "ran", "c0": "far", "c1": "sat", "label": "A"}"#,
            ),
        ),
    ];
    let expected: [(&str, i64); 2] = [
        (
            "[CLS] the cat sat [SEP] | on a mat [SEP]\n[CLS] the cat sat [SEP] | on a sun [SEP]\n\
          [CLS] the cat sat [SEP] | on a dog [SEP]",
            1,
        ),
        ("[CLS] a dog [SEP] | ran far [SEP]\n[CLS] a dog [SEP] | ran sat [SEP]", 0),
    ];
    for (settings, path) in files {
        let batch = batch(settings, &path);
        let (counts, right) = labels(&batch);
        assert_eq!((batch.samples, batch.sequence_length), (5, 16), "{path}");
        let mut rest = rows(&batch);
        let mut found = BTreeSet::new();
        for (count, right) in counts.iter().zip(&right) {
            let own: Vec<String> = rest.drain(..*count as usize).collect();
            found.insert((own.join("\n"), *right));
        }
        assert_eq!(found, expected.map(|(rows, right)| (rows.to_owned(), right)).into(), "{path}");
    }
}

#[test]
fn what_is_too_long_is_cut_and_something_of_each_choice_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (cats, dogs) = ("cat ".repeat(30), "dog ".repeat(30));
    let line = |text: &str, question: &str, choices: [&str; 2]| {
        let row = serde_json::json!({"text": text, "question": question, "choices": choices, "label": 0});
        write(folder.path(), "a.jsonl", &row.to_string())
    };
    let cut = |text: &str, question: &str, choices: [&str; 2]| -> Vec<String> {
        let settings = format!("{LIST} batch.sequence_length=16").replace("batch.micro_batch=2", "batch.micro_batch=1");
        let mut loader = loader(&settings, &line(text, question, choices));
        let batch = loader.next(SlotId(0), Step(1)).unwrap().batches.remove(0);
        assert!(loader.counts().truncated.load(std::sync::atomic::Ordering::Relaxed) > 0);
        rows(&batch).iter().map(|row| row.replace(" cat", "c").replace(" dog", "d")).collect()
    };
    // The text, which is longer, is cut; each choice is whole.
    assert_eq!(
        cut(&cats, "ran", ["on a mat", "sun"]),
        ["[CLS]ccccccccc [SEP] | ran on a mat [SEP]", "[CLS]ccccccccccc [SEP] | ran sun [SEP]"]
    );
    // The question goes before the choice, and its beginning stays.
    assert_eq!(
        cut("the mat", &format!("sat {dogs}"), ["on a mat", "sun"]),
        ["[CLS] the mat [SEP] | satddddddd on a mat [SEP]", "[CLS] the mat [SEP] | satddddddddd sun [SEP]"]
    );
    // All of it goes, and then the end of the choice.
    let long = format!("far {dogs}");
    assert_eq!(
        cut(&cats, "sat on", [&long, "sun"]),
        ["[CLS]ccccccc [SEP] | farddddd [SEP]", "[CLS]cccccccccc [SEP] | sat on sun [SEP]"]
    );
    // As in prediction.
    let (batch, cut) = choice_batch(
        &tokenizer(),
        &[(&cats, Some("ran"), vec!["on a mat", "sun"]), ("a", None, vec!["mat", "dog"])],
        16,
    )
    .unwrap();
    assert_eq!((cut, labels(&batch).0), (vec![true, false], vec![2, 2]));
    assert_eq!(rows(&batch)[2..], ["[CLS] a [SEP] | mat [SEP]", "[CLS] a [SEP] | dog [SEP]"]);
    // Of which the tokenizer keeps nothing.
    let (batch, _) = choice_batch(&tokenizer(), &[("a", None, vec!["mat", "\u{200b}"])], 16).unwrap();
    assert_eq!(rows(&batch)[1], "[CLS] a [SEP] | [UNK] [SEP]");
}

#[test]
fn rows_that_cannot_be_right_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = LIST.replace("data.pair_column=question ", "");
    let lines = [
        r#"{"text": "the cat", "choices": ["mat", "sun"], "label": 2}"#,
        r#"{"text": "the cat", "choices": ["mat"], "label": 0}"#,
        r#"{"text": "the cat", "choices": ["mat", null], "label": 0}"#,
        r#"{"text": "the cat", "choices": ["mat", "dog", " mat"], "label": 1}"#,
        r#"{"text": "the cat", "choices": ["1", "2", "3"], "label": 1}"#,
        r#"{"text": "the cat", "choices": ["mat", "sun"], "label": null}"#,
        r#"{"text": "the cat", "choices": {"text": ["mat", "sun"], "label": ["A", "B"]}, "label": 0}"#,
        r#"{"text": "the cat", "choices": ["mat", "sun"], "label": "B"}"#,
    ];
    let path = write(folder.path(), "a.jsonl", &lines.join("\n"));
    let error = refused(&settings, &path);
    for (line, says) in [
        (1, "`2` is none of the 2 choices"),
        (2, "1 choice(s)"),
        (3, "choice B is empty"),
        (4, "choices A and C are the same: ` mat`"),
        (5, "`1` is the number of choice B, and the text of choice A\n  help: write `B` or `A`"),
        (7, "`0` is none of the choices' labels: A, B"),
    ] {
        assert!(error.contains(&format!("{path}, line {line}: {says}")), "{says}: {error}");
    }
    assert!(error.contains("number from 0 to 1, its letter from A to B, or its text"), "{error}");
    assert!(!error.contains("line 6") && !error.contains("line 8"), "{error}");
    // Held-out files are looked at too.
    let good = write(folder.path(), "good.jsonl", lines[7]);
    let error = refused(&format!("{settings} data.eval_paths=[\"{path}\"]"), &good);
    assert!(error.starts_with(&format!("{path}, line 1: ")), "{error}");
    // What holds no choices at all.
    let csv = write(folder.path(), "a.csv", "text,choices,label\nthe cat,mat,0\n");
    let error = refused(&settings, &csv);
    assert!(error.contains("CSV has no lists of choices") && error.contains("data.choice_columns"), "{error}");
    let plain = write_parquet(
        &folder.path().join("a.parquet"),
        &[("text", strings(&[Some("a")])), ("choices", strings(&[Some("a")])), ("label", strings(&[Some("a")]))],
        9,
    );
    let error = refused(&settings, &plain);
    assert!(error.contains("column `choices` is of type Utf8") && error.contains("name all"), "{error}");
    let odd = write(folder.path(), "odd.jsonl", r#"{"text": "a", "choices": "mat", "label": 0}"#);
    let error = refused(&settings, &odd);
    assert!(error.contains("line 1: `choices` is \"mat\"") && error.contains("a list of texts"), "{error}");
    let odd = write(folder.path(), "odd.jsonl", r#"{"text": "a", "chioces": ["mat"], "label": 0}"#);
    let error = refused(&settings, &odd);
    assert!(error.contains("there is no column `choices`") && error.contains("did you mean `chioces`"), "{error}");
    let settings_of_columns = columns().replace("data.pair_column=question ", "");
    let blank =
        write(folder.path(), "blank.jsonl", r#"{"text": "a", "c0": "mat", "c1": "sun", "c2": " ", "label": 0}"#);
    let mut two = loader(&settings_of_columns, &blank);
    assert_eq!(labels(&two.next(SlotId(0), Step(1)).unwrap().batches[0]).0[0], 2, "the last one is left out");
    let gap = write(folder.path(), "gap.csv", "text,c0,c1,c2,label\na,mat,,dog,0\n");
    let error = refused(&settings_of_columns, &gap);
    assert!(error.contains("line 2: choice B is empty") && error.contains("behind the others"), "{error}");
}

#[test]
fn rows_without_something_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"{"text": "the cat", "question": "sat", "choices": ["mat", "sun"], "label": 0}"#;
    let lines = [
        good,
        &good.replace("\"the cat\"", "null"),
        &good.replace("\"sat\"", "null"),
        &good.replace("[\"mat\", \"sun\"]", "null"),
        &good.replace("[\"mat\", \"sun\"]", "[]"),
        &good.replace(": 0", ": null"),
        // What such a row has otherwise is not looked at.
        &good.replace("\"the cat\"", "null").replace(", \"sun\"", ""),
        &good.replace("\"sat\"", "null").replace("\"sun\"", "\"mat\""),
    ];
    let path = write(folder.path(), "a.jsonl", &lines.join("\n"));
    let mut loader = loader(&LIST.replace("micro_batch=2", "micro_batch=1"), &path);
    let step = loader.next(SlotId(0), Step(1)).unwrap();
    assert_eq!(step.segments[0].total, 1);
    assert_eq!(rows(&step.batches[0]), ["[CLS] the cat [SEP] | sat mat [SEP]", "[CLS] the cat [SEP] | sat sun [SEP]"]);
    let skipped = loader.counts().null_rows.load(std::sync::atomic::Ordering::Relaxed);
    assert!(skipped > 0 && skipped.is_multiple_of(7), "{skipped}");
}

#[test]
fn choices_that_become_the_same_tokens_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let row = |choices: [&str; 2]| {
        serde_json::json!({"text": "a", "question": "sat", "choices": choices, "label": 0}).to_string() + "\n"
    };
    for (choices, expected) in [(["mat", "MAT"], true), (["mat", "sun"], false)] {
        let path = write(folder.path(), "a.jsonl", &row(choices));
        let mut loader = loader(LIST, &path);
        loader.next(SlotId(0), Step(1)).unwrap();
        let alike = loader.counts().alike.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(alike > 0, expected, "{choices:?}: {alike}");
    }
}

#[test]
fn groups_and_folds_keep_a_text_on_one_side() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..120)
        .map(|row| {
            let text = format!("{} the cat", row % 12);
            format!(
                "{}\n",
                serde_json::json!({"text": text, "choices": ["mat", "sun", "dog"], "label": row % 3, "who": row % 12})
            )
        })
        .collect();
    let path = write(folder.path(), "a.jsonl", &lines);
    let settings = LIST.replace("data.pair_column=question ", "").replace(" data.eval_fraction=0", "");
    let sides = |more: &str| {
        let settings = format!("{settings} {more}").replace("batch.micro_batch=2", "batch.micro_batch=1");
        let mut loader = loader(&settings, &path);
        let set =
            |batches: &[Batch]| -> BTreeSet<String> { batches.iter().map(|batch| rows(batch)[0].clone()).collect() };
        let trained: Vec<Batch> =
            (1..=80).flat_map(|step| loader.next(SlotId(0), Step(step)).unwrap().batches).collect();
        (set(&trained), set(&loader.eval_batches(1000).unwrap()))
    };
    for more in ["data.group_column=who data.eval_fraction=0.25", "data.folds=4 data.fold=1"] {
        let (trained, held) = sides(more);
        assert!(trained.is_disjoint(&held), "{more}");
        assert_eq!((trained.len(), held.len()), (9, 3), "{more}");
    }
}
