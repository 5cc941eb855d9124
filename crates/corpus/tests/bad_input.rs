//! Every bad input is refused with where, what and what to do.
#![allow(clippy::unwrap_used)]

mod shared;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListBuilder, UInt32Builder};
use corpus::{Columns, Corpus, CorpusError, ErrorKind, FileSource, Loader};
use shared::{config, strings, text, tokenizer, write_parquet};
use std::path::Path;
use std::sync::Arc;
use types::{Cursor, SlotId, Step};

const MLM: &str = "objective.kind=mlm data.eval_fraction=0";
const CLASSIFY: &str = "objective.kind=classify data.label_column=label data.eval_fraction=0";

fn open(settings: &str, path: &str) -> CorpusError {
    match Corpus::open(&config(settings, &[path])) {
        Ok(_) => panic!("{path} was accepted"),
        Err(error) => error,
    }
}

fn read(settings: &str, path: &str) -> CorpusError {
    let config = config(settings, &[path]);
    let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    loader.next(SlotId(0), Step(1)).unwrap_err()
}

#[track_caller]
fn check(error: &CorpusError, kind: ErrorKind, path: &str, parts: &[&str]) {
    let shown = error.to_string();
    assert_eq!(error.kind, kind, "{shown}");
    assert!(shown.starts_with(path), "{shown}");
    assert!(shown.contains("\n  help: "), "{shown}");
    for part in parts {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
}

fn write(folder: &Path, name: &str, contents: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

fn texts(rows: usize) -> ArrayRef {
    let texts: Vec<String> = (0..rows).map(text).collect();
    strings(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>())
}

#[test]
fn what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.parquet").display().to_string();
    check(&open(MLM, &missing), ErrorKind::NotFound, &missing, &["no such file", "check the spelling"]);
    let url = format!("file://{missing}");
    check(&open(MLM, &url), ErrorKind::NotFound, &missing, &["no such file"]);
    let glob = folder.path().join("*.parquet").display().to_string();
    check(&open(MLM, &glob), ErrorKind::NotFound, &glob, &["no file matches"]);
    let directory = folder.path().display().to_string();
    check(&open(MLM, &directory), ErrorKind::NotFound, &directory, &["is a folder", "/*.parquet"]);
    let unknown = "ftp://host/x.parquet";
    check(&open(MLM, unknown), ErrorKind::Io, unknown, &["cannot be read"]);
}

#[test]
fn a_file_that_is_trained_on_and_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_parquet(&folder.path().join("a.parquet"), &[("text", texts(20))], 10);
    let glob = folder.path().join("*.parquet").display().to_string();
    let error = open(&format!("{MLM} data.eval_paths=[\"{path}\"]"), &glob);
    check(&error, ErrorKind::Value, &path, &["`data.eval_paths`", "leave it out of one"]);
}

#[test]
fn columns_that_are_not_there_or_not_text() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let path = write_parquet(&folder.path().join("t.parquet"), &[("texts", texts(1)), ("score", numbers)], 10);
    let parts = ["there is no column `text`", "did you mean `texts`?", "texts, score"];
    check(&open(MLM, &path), ErrorKind::Column, &path, &parts);
    let wrong = open(&format!("{MLM} data.column=score"), &path);
    check(&wrong, ErrorKind::Type, &path, &["column `score` is of type Float64", "list of token ids"]);
    let csv = write(folder.path(), "t.csv", b"body,klass\nx,y\n");
    check(&open(CLASSIFY, &csv), ErrorKind::Column, &csv, &["no column `text`", "the columns are: body, klass"]);
    let jsonl = write(folder.path(), "t.jsonl", b"{\"text\": \"x\", \"labels\": 1}\n");
    check(&open(CLASSIFY, &jsonl), ErrorKind::Column, &jsonl, &["no column `label`", "did you mean `labels`?"]);
    let tags = open("objective.kind=tag", &path);
    check(&tags, ErrorKind::Column, &path, &["no column of tags", "data.label_column"]);
    let lists = open("objective.kind=tag data.column=texts data.label_column=score", &path);
    check(&lists, ErrorKind::Type, &path, &["needed is a list of text"]);
}

#[test]
fn files_cut_short_or_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let whole = write_parquet(&folder.path().join("t.parquet"), &[("text", texts(400))], 1000);
    let mut bytes = std::fs::read(&whole).unwrap();
    let cut = write(folder.path(), "cut.parquet", &bytes[..bytes.len() / 2]);
    check(&open(MLM, &cut), ErrorKind::Corrupt, &cut, &["truncated or damaged Parquet", "write the file again"]);
    let empty = write(folder.path(), "empty.parquet", b"");
    check(&open(MLM, &empty), ErrorKind::Corrupt, &empty, &["truncated or damaged Parquet"]);
    // The footer is whole, but the pages of the first row group are not.
    for byte in &mut bytes[4..600] {
        *byte ^= 0xa5;
    }
    let damaged = write(folder.path(), "damaged.parquet", &bytes);
    let error = read(&format!("{MLM} batch.slots=1 data.unit_rows=1000"), &damaged);
    check(&error, ErrorKind::Corrupt, &format!("{damaged}, row group 0"), &["truncated or damaged Parquet"]);
}

#[test]
fn files_without_rows_or_without_text() {
    let folder = tempfile::tempdir().unwrap();
    let none = write_parquet(&folder.path().join("none.parquet"), &[("text", texts(0))], 10);
    check(&open(MLM, &none), ErrorKind::Empty, &none, &["not one row"]);
    let null = write_parquet(&folder.path().join("null.parquet"), &[("text", strings(&[None, None, None]))], 2);
    check(&open(MLM, &null), ErrorKind::Empty, &null, &["column `text` is null in all 3 rows"]);
    let csv = write(folder.path(), "head.csv", b"text,label\n");
    check(&open(CLASSIFY, &csv), ErrorKind::Empty, &csv, &["not one row"]);
    let one = write(folder.path(), "one.csv", b"text,label\na,x\nb,x\n");
    check(&open(CLASSIFY, &one), ErrorKind::Empty, &one, &["1 different label(s)"]);
    let nulls = write(folder.path(), "nulls.csv", b"text,label\n,x\n,y\n");
    check(&open(CLASSIFY, &nulls), ErrorKind::Empty, &format!("{nulls}, line 2"), &["all others", "`text` or `label`"]);
    let empty = write(folder.path(), "empty.jsonl", b"{\"text\": \"\"}\n{\"text\": null}\n");
    let error = read(&format!("{MLM} batch.slots=1"), &empty);
    check(&error, ErrorKind::Empty, &empty, &["all its rows are null or empty"]);
}

#[test]
fn text_files_that_do_not_parse() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write(folder.path(), "t.csv", b"text,label\na,b\nc,d,e\n");
    check(
        &open(CLASSIFY, &csv),
        ErrorKind::Corrupt,
        &csv,
        &["line 3: 3 fields where the header has 2", "quote fields"],
    );
    let csv_of_windows = write(folder.path(), "w.csv", b"text,label\r\na,b\r\n\r\nc,d,e\r\n");
    check(&open(CLASSIFY, &csv_of_windows), ErrorKind::Corrupt, &csv_of_windows, &["line 4: 3 fields"]);
    let latin = write(folder.path(), "l.csv", b"text,label\na,b\ncaf\xe9,d\n");
    check(&open(CLASSIFY, &latin), ErrorKind::Corrupt, &latin, &["line 3: not UTF-8", "iconv"]);
    let json = write(folder.path(), "t.jsonl", b"{\"text\": \"a\", \"label\": 1}\nnothing\n");
    let error = open(CLASSIFY, &json);
    check(&error, ErrorKind::Corrupt, &format!("{json}, line 2: "), &["at column 2\n", "one JSON object"]);
    assert!(!error.to_string().contains("line 1"), "{error}");
    // The column is that of an editor, which counts characters.
    let json = write(folder.path(), "c.jsonl", "{\"text\": \"éé\", 5}\n".as_bytes());
    check(&open(CLASSIFY, &json), ErrorKind::Corrupt, &format!("{json}, line 1: "), &["at column 16\n"]);
    let nested = write(folder.path(), "n.jsonl", b"{\"text\": {\"a\": 1}, \"label\": 1}\n");
    check(&open(CLASSIFY, &nested), ErrorKind::Corrupt, &nested, &["line 1: `text` is {\"a\":1}; needed is text"]);
    let tags = write(folder.path(), "t.pos", b"The/DT cat/NN\nsat on/IN\n");
    check(&open("objective.kind=tag", &tags), ErrorKind::Corrupt, &tags, &["line 2: `sat` is no word/tag"]);
    check(&open(CLASSIFY, &tags), ErrorKind::Type, &tags, &["does not learn tags"]);
    check(&open("objective.kind=tag data.label_column=label", &csv), ErrorKind::Type, &csv, &["CSV has no lists"]);
    let unknown = write(folder.path(), "t.dat", b"x");
    check(&open(MLM, &unknown), ErrorKind::Type, &unknown, &["name's ending", "data.format"]);
    let fewer = write(
        folder.path(),
        "f.jsonl",
        b"{\"text\": [\"a\", \"b\"], \"label\": [\"x\", \"y\"]}\n{\"text\": [\"a\"], \"label\": [\"x\", \"y\"]}\n",
    );
    let error = open("objective.kind=tag data.label_column=label data.eval_fraction=0 batch.slots=1", &fewer);
    check(&error, ErrorKind::Value, &format!("{fewer}, line 2"), &["1 words and 2 tags"]);
}

#[test]
fn quotes_that_are_lost_take_no_other_lines_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |count: usize| "the cat,good\n".repeat(count);
    let settings = format!("{CLASSIFY} objective.labels=[\"good\",\"bad\"]");
    let far = "line 3: a quote that opens here closes on line 9, ";
    let (closes, never) = ("with text behind it", "line 3: a quote that opens here never closes");
    for (contents, says) in [
        // The quote of line 3 would be closed by the next one, which opens, or stands in the text of another row.
        (format!("{}\"the dog,bad\n{}\"a, b\",good\n", rows(1), rows(5)), far),
        (format!("{}\"the dog,bad\n{}a \"b\" c,good\n", rows(1), rows(5)), far),
        (format!("{}the dog,bad\n\"a\" b,good\n", rows(1)), "line 4: a quote that opens here closes, "),
        (format!("{}\"two\nlines\",bad\ncat,\"go\"od\n", rows(1)), "line 5: a quote that opens here closes, "),
        ("\"two\r\nlines\",bad\r\n\"a \"b\" c\",good\r\n".to_owned(), "line 4: a quote that opens here closes, "),
        (format!("{}\"the dog,bad\n{}", rows(1), rows(5)), never),
        (format!("{}\"the \"\"dog\"\",bad\n{}", rows(1), rows(5)), never),
        (format!("{}\"", rows(1)), never),
    ] {
        let path = write(folder.path(), "lost.csv", format!("text,label\n{contents}").as_bytes());
        let error = open(&settings, &path);
        check(&error, ErrorKind::Corrupt, &format!("{path}, {says}"), &["close it", "write each quote twice"]);
        assert_eq!(error.to_string().contains(closes), says != never, "{error}");
    }
    let kept = "a \"b\" c,good\n\"a \"\"b\"\", c\",\"bad\"\r\n\"\",good\n\"two\nlines\",bad\n6\",good\n\
                \"\"\"\"\"\",bad\ncat,\"good\"";
    let path = write(folder.path(), "kept.csv", format!("text,label\n{kept}").as_bytes());
    assert_eq!(Corpus::open(&config(&settings, &[&path])).unwrap().files()[0].rows(), 7);
}

#[test]
fn pointers_of_git_lfs_are_told_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let parts = ["it is a pointer of Git LFS, not the file itself", "`git lfs pull`"];
    let answer = "objective.kind=answer data.column=context";
    let choose = "objective.kind=choose data.choice_columns=[\"choices\"] data.label_column=label";
    for (settings, name) in [
        (MLM, "p.parquet"),
        (MLM, "p.jsonl"),
        (CLASSIFY, "p.csv"),
        ("objective.kind=tag", "p.conll"),
        ("objective.kind=tag", "p.pos"),
        (answer, "p.json"),
        (answer, "answers.jsonl"),
        (choose, "choices.jsonl"),
    ] {
        let path = write(folder.path(), name, pointer);
        check(&open(settings, &path), ErrorKind::Corrupt, &format!("{path}: it is"), &parts);
    }
    let error = corpus::squad_questions("dev.json", pointer).unwrap_err();
    check(&error, ErrorKind::Corrupt, "dev.json: it is", &parts);
    // A text may speak of them.
    let text = [&pointer[..], &b"a text of Git LFS\n".repeat(100)].concat();
    let path = write(folder.path(), "text.csv", &text);
    check(&open(CLASSIFY, &path), ErrorKind::Column, &path, &["no column `text`"]);
}

#[test]
fn wrong_json_is_told_in_words_of_json() {
    let folder = tempfile::tempdir().unwrap();
    for (line, says) in [
        ("{\"text\": \"the c", "the line is cut off"),
        ("{\"text\": \"the cat\", \"label\": 1", "the line is cut off"),
        ("[\"the cat\", 1]", "a list instead of an object at column"),
        ("\"the cat\"", "\"the cat\" instead of an object at column"),
        ("2.5", "`2.5` instead of an object at column"),
    ] {
        let path = write(folder.path(), "t.jsonl", format!("{{\"text\": \"a\", \"label\": 1}}\n{line}\n").as_bytes());
        check(&open(CLASSIFY, &path), ErrorKind::Corrupt, &format!("{path}, line 2: {says}"), &["one JSON object"]);
    }
}

#[test]
fn rows_of_text_files_are_told_by_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let classify = format!("{CLASSIFY} objective.labels=[\"good\",\"bad\"]");
    let tag = "objective.kind=tag objective.labels=[\"N\",\"V\"]";
    let universal = format!("{tag} data.column=\"2\" data.label_column=\"4\"");
    let word = |id: &str, text: &str, tag: &str| format!("{id}\t{text}\t_\t{tag}{}\n", "\t_".repeat(6));
    let words =
        [word("1-2", "catran", "_"), word("1", "cat", "N"), word("1.1", "sat", "_"), word("2", "ran", "X")].concat();
    for (settings, name, contents, line) in [
        (classify.as_str(), "plain.csv", "text,label\ncat,good\ndog,odd\n", 3),
        (&classify, "quoted.csv", "text,label\n\"cat\n\nsat\",good\n\ndog,odd\n", 6),
        (&classify, "windows.csv", "text,label\r\n\"cat\r\nsat\",good\r\n\r\ndog,odd", 5),
        (&classify, "gaps.jsonl", "{\"text\":\"a\",\"label\":\"bad\"}\n\n \n{\"text\":\"b\",\"label\":\"odd\"}", 4),
        (tag, "gaps.pos", "cat/N\n\ndog/N ran/X\n", 3),
        (tag, "sentences.conll", "-DOCSTART- O\n\ncat N\nsat V\n\n\ndog N\nran X\n", 8),
        // A word has a line of its own, whatever stands between it and the sentence's first.
        (tag, "comments.conll", "sun\tN\n\n# two\ncat\tN\n# of them\nran\tX", 6),
        (&universal, "universal.conll", words.as_str(), 4),
    ] {
        let path = write(folder.path(), name, contents.as_bytes());
        check(&open(settings, &path), ErrorKind::Value, &format!("{path}, line {line}: `"), &["none of the 2 labels"]);
    }
}

#[test]
fn ids_that_the_tokenizer_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let mut lists = ListBuilder::new(UInt32Builder::new());
    lists.append_value([Some(5), Some(6)]);
    lists.append_value([Some(7), Some(30_000)]);
    let path = write_parquet(&folder.path().join("i.parquet"), &[("text", Arc::new(lists.finish()) as ArrayRef)], 10);
    let error = read(&format!("{MLM} batch.slots=1"), &path);
    check(&error, ErrorKind::Value, &format!("{path}, row group 0, row 1"), &["30000 is no id of this tokenizer"]);
}

#[test]
fn files_that_changed_under_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_parquet(&folder.path().join("t.parquet"), &[("text", texts(50))], 100);
    let config = config(&format!("{MLM} batch.slots=1"), &[&path]);
    let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor { turn: 0, sample: 1_000_000 })]);
    let error = loader.next(SlotId(0), Step(1)).unwrap_err();
    check(&error, ErrorKind::Corrupt, &path, &["stands at sample 1000000", "have changed since the run began"]);
}

#[test]
fn labels_of_a_wrong_type() {
    let folder = tempfile::tempdir().unwrap();
    let scores: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 0.7]));
    let path = write_parquet(&folder.path().join("l.parquet"), &[("text", texts(2)), ("label", scores)], 10);
    let parts = ["column `label` is of type Float64", "whole numbers", "objective.regression = true"];
    check(&open(CLASSIFY, &path), ErrorKind::Type, &path, &parts);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let path = write_parquet(&folder.path().join("t.parquet"), &[("text", numbers), ("label", texts(2))], 10);
    check(&open(CLASSIFY, &path), ErrorKind::Type, &path, &["column `text` is of type Int64"]);
}

#[test]
fn one_file_by_two_names() {
    let folder = tempfile::tempdir().unwrap();
    let open = |training: &[&str], held_out: &[&str]| {
        let text = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        match FileSource::open(&text(training), &text(held_out), None, &Columns::text("text")) {
            Ok(source) => panic!("{:?} was accepted", source.files()),
            Err(error) => error,
        }
    };
    let path = write(folder.path(), "a.jsonl", b"{\"text\": \"one\"}\n");
    let glob = folder.path().join("*.jsonl").display().to_string();
    let twice = "used twice in an epoch";
    check(&open(&[&path, &path], &[]), ErrorKind::Value, &path, &["is named twice", twice]);
    check(&open(&[&path, &glob], &[]), ErrorKind::Value, &path, &["is named twice", "two globs"]);
    let dotted = folder.path().join("./a.jsonl").display().to_string();
    check(&open(&[&path, &dotted], &[]), ErrorKind::Value, &dotted, &["is the same file as", &path, twice]);
    let link = folder.path().join("b.jsonl");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let link = link.display().to_string();
    check(&open(&[&glob], &[]), ErrorKind::Value, &link, &["is the same file as", &path, "a link"]);
    check(&open(&[&path], &[&link]), ErrorKind::Value, &link, &["would be held out"]);
}

#[test]
fn what_cannot_be_read_is_told_apart_from_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loop.jsonl");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let path = path.display().to_string();
    check(&open(MLM, &path), ErrorKind::Unreadable, &path, &["cannot be read", "its disk"]);
}

#[test]
fn rows_that_are_units_of_their_own_have_no_random_next_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_parquet(&folder.path().join("single.parquet"), &[("text", texts(6))], 1);
    let settings = MLM.replace("kind=mlm", "kind=mlm_nsp");
    check(&open(&settings, &path), ErrorKind::Empty, &path, &["no other row", "larger row groups"]);
    Corpus::open(&config(MLM, &[&path])).unwrap();
    let path = write_parquet(&folder.path().join("pairs.parquet"), &[("text", texts(6))], 2);
    Corpus::open(&config(&settings, &[&path])).unwrap();
}
