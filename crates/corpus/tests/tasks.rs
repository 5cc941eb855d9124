//! Questions with their passages, numbers, pairs that match, CoNLL, groups: read, cut and checked.
#![allow(clippy::unwrap_used)]

mod shared;

use arrow::array::{ArrayRef, Int32Builder, LargeListArray, ListBuilder, StringBuilder, StructArray};
use corpus::{Batch, Corpus, CorpusError, ErrorKind, Labels, Loader, question_batches, separate_batch};
use shared::{config, strings, tokenizer, write_parquet};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use types::{Cursor, SlotId, Step};

const ANSWER: &str = "objective.kind=answer data.column=context data.eval_fraction=0 batch.slots=1 batch.micro_batch=1";
const TAG: &str = "objective.kind=tag data.eval_fraction=0 batch.slots=1 batch.micro_batch=2";

fn write(folder: &Path, name: &str, contents: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

fn open(settings: &str, path: &str) -> Result<Corpus, CorpusError> {
    Corpus::open(&config(settings, &[path]))
}

fn refused(settings: &str, path: &str) -> String {
    match open(settings, path) {
        Ok(_) => panic!("{path} was accepted"),
        Err(error) => error.to_string(),
    }
}

/// Batches of the first slot.
fn batches(settings: &str, path: &str, count: usize) -> Vec<Batch> {
    let config = config(settings, &[path]);
    let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    (1..=count as u64).flat_map(|step| loader.next(SlotId(0), Step(step)).unwrap().batches).collect()
}

const SQUAD: &str = r#"{"version": "1.1", "data": [{"title": "cats", "paragraphs": [{
    "context": "the cat sat on a mat", "qas": [
    {"id": "q1", "question": "the cat", "answers": [{"text": "a mat", "answer_start": 15}, {"text": "mat", "answer_start": 17}]}]}]}]}"#;

/// (tokens of the answer, all right answers) of the only window there is.
fn answer(settings: &str, path: &str) -> (Vec<String>, Vec<String>) {
    let batch = batches(settings, path, 1).remove(0);
    let Labels::Answer { starts, ends, windows } = &batch.labels else { panic!("{:?}", batch.labels) };
    let tokens = (starts[0]..=ends[0]).map(|at| tokenizer().token(batch.ids[at as usize] as u32).unwrap());
    (tokens.collect(), windows[0].example.answers.clone())
}

#[test]
fn all_formats_give_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let lists = r#"{"id": "q1", "context": "the cat sat on a mat", "question": "the cat", "answers": {"text": ["a mat", "mat"], "answer_start": [15, 17]}}"#;
    let objects = r#"{"context": "the cat sat on a mat", "question": "the cat", "answers": [{"text": "a mat", "answer_start": 15}, {"text": "mat", "answer_start": 17}]}"#;
    let mut texts = ListBuilder::new(StringBuilder::new());
    let mut starts = ListBuilder::new(Int32Builder::new());
    for (text, start) in [("a mat", 15), ("mat", 17)] {
        texts.values().append_value(text);
        starts.values().append_value(start);
    }
    texts.append(true);
    starts.append(true);
    let (texts, starts) = (texts.finish(), starts.finish());
    let of_lists: Vec<(&str, ArrayRef)> =
        vec![("text", Arc::new(texts.clone())), ("answer_start", Arc::new(starts.clone()))];
    let of_lists = Arc::new(StructArray::try_from(of_lists).unwrap()) as ArrayRef;
    let each: Vec<(&str, ArrayRef)> = vec![("text", texts.values().clone()), ("answer_start", starts.values().clone())];
    let each = Arc::new(StructArray::try_from(each).unwrap()) as ArrayRef;
    let field = Arc::new(arrow::datatypes::Field::new_list_field(each.data_type().clone(), true));
    let of_structs: ArrayRef =
        Arc::new(LargeListArray::new(field, arrow::buffer::OffsetBuffer::from_lengths([2]), each, None));
    let text = |text: &str| strings(&[Some(text)]);
    let columns = |answers: ArrayRef| {
        [("answers", answers), ("question", text("the cat")), ("context", text("the cat sat on a mat"))]
    };
    let parquet = |name: &str, answers| write_parquet(&folder.path().join(name), &columns(answers), 10);
    let expected = (vec!["a".to_owned(), "mat".to_owned()], vec!["a mat".to_owned(), "mat".to_owned()]);
    for path in [
        write(folder.path(), "a.json", SQUAD),
        write(folder.path(), "a.jsonl", lists),
        write(folder.path(), "b.jsonl", objects),
        parquet("a.parquet", of_lists),
        parquet("b.parquet", of_structs),
    ] {
        assert_eq!(answer(ANSWER, &path), expected, "{path}");
    }
}

#[test]
fn a_long_passage_is_cut_into_windows_that_overlap() {
    let folder = tempfile::tempdir().unwrap();
    // Twenty tokens; the answer is the sixteenth.
    let passage = format!("{}sun {}", "cat ".repeat(15), "dog ".repeat(4));
    let line = serde_json::json!({"context": passage, "question": "the sun", "answers": {"text": ["sun"], "answer_start": [60]}});
    let path = write(folder.path(), "a.jsonl", &line.to_string());
    let settings = format!("{ANSWER} batch.sequence_length=16 objective.stride=6 objective.max_question_length=4");
    let mut all = batches(&settings, &path, 3);
    all.sort_by_key(|batch| match &batch.labels {
        Labels::Answer { windows, .. } => windows[0].tokens.start,
        other => panic!("{other:?}"),
    });
    let mut found = Vec::new();
    for batch in &all {
        let Labels::Answer { starts, ends, windows } = &batch.labels else { panic!() };
        assert_eq!((batch.samples, windows[0].first, starts[0]), (1, 4, ends[0]));
        let segments = batch.segment_ids.as_ref().unwrap();
        assert!(segments[..4].iter().all(|segment| *segment == 0) && segments[4] == 1);
        found.push((windows[0].tokens.clone(), starts[0]));
        let bytes = windows[0].example.offsets[15].clone();
        assert_eq!(&windows[0].example.passage[bytes], "sun");
    }
    // [CLS] the sun [SEP] and eleven tokens [SEP].
    assert_eq!(found, [(0..11, 0), (6..17, 4 + 9), (12..20, 4 + 3)]);
}

#[test]
fn answers_that_do_not_occur_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let line = |answer: &str, start: i64| {
        serde_json::json!({"context": "the cat sat", "question": "sat", "answers": {"text": [answer], "answer_start": [start]}})
            .to_string()
    };
    let lines = [line("cat", 4), line("dog", 4), line("cat", 3), line("the", 0)];
    let path = write(folder.path(), "a.jsonl", &lines.join("\n"));
    let error = refused(ANSWER, &path);
    assert!(error.starts_with(&format!("{path}, line 2: the answer `dog` does not occur")), "{error}");
    assert!(error.contains(&format!("{path}, line 3: the answer `cat` is not at character 3")), "{error}");
    assert!(
        error.contains("it is at 4: correct `answer_start`") && error.contains("help: correct the answer"),
        "{error}"
    );
    let none = write(folder.path(), "b.jsonl", r#"{"context": "the cat", "question": "sat", "answers": []}"#);
    let error = refused(ANSWER, &none);
    assert!(
        error.contains("line 1: the question has no answer") && error.contains("no_answer_threshold = 0.0"),
        "{error}"
    );
    assert!(open(&format!("{ANSWER} objective.no_answer_threshold=0.0"), &none).is_ok());
    let impossible = SQUAD.replace("\"id\"", "\"is_impossible\": true, \"id\"");
    // A row of SQuAD's JSON is told by its question: plausible answers are none.
    for (json, question) in [(impossible.clone(), "q1"), (impossible.replace("\"id\": \"q1\", ", ""), "`the cat`")] {
        let path = write(folder.path(), "c.json", &json);
        let error = refused(ANSWER, &path);
        assert!(error.starts_with(&format!("{path}, question {question}: the question has no answer")), "{error}");
    }
    let broken = write(folder.path(), "d.json", "{\"data\": [{\"paragraphs\": \n3}]}");
    let error = refused(ANSWER, &broken);
    assert!(error.contains("line 2: not SQuAD") && error.contains("paragraphs"), "{error}");
    assert!(error.contains("at column 1\n") && !error.contains("at line"), "{error}");
}

#[test]
fn what_is_not_squad_is_told_in_words_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let told = |contents: &str| {
        let path = write(folder.path(), "t.json", contents);
        let error = refused(ANSWER, &path);
        error.strip_prefix(&path).unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    let list = SQUAD.split_once("\"data\": ").unwrap().1.strip_suffix('}').unwrap();
    for list in [list, "\n []", "[[]]"] {
        let error = told(list);
        assert!(error.starts_with(": the file is a list; SQuAD's JSON has it under {\"data\": [...]}\n"), "{error}");
    }
    for (length, line) in [(SQUAD.len() - 1, 3), (SQUAD.len() - 20, 3), (40, 1)] {
        let error = told(&SQUAD[..length]);
        assert!(error.starts_with(&format!(", line {line}: the file is cut off\n")), "{error}");
        assert!(error.contains("once more"), "{error}");
    }
    for (from, to, says) in [
        ("15", "\"15\"", "\"15\" instead of a whole number"),
        ("15", "1.5", "`1.5` instead of a whole number"),
        ("\"q1\"", "1.5", "`1.5` instead of a text in quotes or a whole number"),
        ("\"question\": ", "\"question\": 7, \"asked\": ", "`7` instead of a text in quotes"),
        ("\"answers\"", "\"is_impossible\": 0, \"answers\"", "`0` instead of true or false"),
        ("\"qas\": [", "\"qas\": [[], ", "a list instead of an object"),
        ("\"qas\": [", "\"qas\": [null, ", "null instead of an object"),
        ("\"data\": [", "\"data\": {}, \"more\": [", "an object instead of a list"),
    ] {
        let error = told(&SQUAD.replacen(from, to, 1));
        assert!(error.contains(&format!(": not SQuAD: {says} at column ")), "{from} {to}: {error}");
    }
}

#[test]
fn two_questions_of_a_file_with_one_id_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let asked = |id: &str| SQUAD.replacen("\"qas\": [", &format!("\"qas\": [{{{id}\"question\": \"who?\"}}, "), 1);
    let article = SQUAD.split_once("\"data\": [").unwrap().1;
    let beside = asked("\"id\": \"q1\", ");
    let below = SQUAD.replacen("\"data\": [", &format!("\"data\": [{}, ", article.strip_suffix("]}").unwrap()), 1);
    for (json, first, second) in [
        (&beside, "data[0].paragraphs[0].qas[0] (`who?`)", "data[0].paragraphs[0].qas[1] (`the cat`)"),
        (&below, "data[0].paragraphs[0].qas[0] (`the cat`)", "data[1].paragraphs[0].qas[0] (`the cat`)"),
    ] {
        let path = write(folder.path(), "a.json", json);
        let error = refused(ANSWER, &path);
        let expected = format!("{path}, question q1: two questions have this id, {first} and {second}\n");
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains("give each question an id of its own"), "{error}");
        let told = corpus::squad_questions(&path, json.as_bytes()).unwrap_err();
        assert_eq!((told.kind, told.to_string()), (ErrorKind::Value, error));
    }
    for (id, read) in
        [("", None), ("\"id\": null, ", None), ("\"id\": \"q2\", ", Some("q2".into())), ("\"id\": 7, ", Some(7.into()))]
    {
        let questions = corpus::squad_questions("a.json", asked(id).as_bytes()).unwrap();
        assert_eq!((questions.len(), questions[0].id.clone()), (2, read));
    }
    // Each such id is named.
    let twice = r#"{"id": 7, "question": "a"}, {"id": "8", "question": "b"}, {"id": 8, "question": "c"}, {"id": "7", "question": "d"}, "#;
    let path = write(folder.path(), "d.json", &SQUAD.replacen("\"qas\": [", &format!("\"qas\": [{twice}"), 1));
    let error = refused(ANSWER, &path);
    assert!(error.contains(", question 8: two questions") && error.contains(", question 7: two questions"), "{error}");
    // Another file may have the same ids.
    let paths = ["b.json", "c.json"].map(|name| write(folder.path(), name, SQUAD));
    Corpus::open(&config(ANSWER, &[&paths[0], &paths[1]])).unwrap();
}

#[test]
fn a_question_whose_passage_is_empty_is_left_out_whatever_its_answers() {
    let folder = tempfile::tempdir().unwrap();
    let line = |passage: &str, answers: &str| {
        format!("{{\"context\": \"{passage}\", \"question\": \"who\", \"answers\": [{answers}]}}\n")
    };
    let cat = "{\"text\": \"cat\", \"answer_start\": 4}";
    let path = write(folder.path(), "a.jsonl", &[line("the cat", cat), line(" ", cat), line("", "")].concat());
    let corpus = open(ANSWER, &path).unwrap();
    let said = "2 of 3 rows have nothing in `context` or `question` and are left out";
    assert_eq!(corpus.warnings(), [format!("{said}; the first: {path}, line 2")]);
    assert_eq!(answer(ANSWER, &path).1, ["cat"]);
}

#[test]
fn conll_is_parted_by_tabs_or_by_spaces() {
    let folder = tempfile::tempdir().unwrap();
    let accepted = |text: &str| open(TAG, &write(folder.path(), "a.conll", text)).unwrap().labels().to_vec();
    // Behind a line, or on an empty one, a tab parts nothing; between tabs a word may hold a space.
    assert_eq!(accepted("the O\ncat B-X\t\n \t\nsun O\n"), ["B-X", "O"]);
    assert_eq!(accepted("# a comment\n-DOCSTART- O\n\nthe cat\tB-X\nsun\tO\n"), ["B-X", "O"]);
    for (text, says) in [
        ("the O\ncat O\n\nsun\tB-X\n", "line 4: a tab between columns, and spaces on line 1"),
        ("the\tO\ncat O\nsun B-X\n", "line 1: a tab between columns, and spaces on line 2"),
        ("the DT O\ncat NN\tO\n", "line 2: a tab between columns, and spaces on line 1"),
        ("# of tabs\n\nthe\tO\ncat\tO\nsun B-X\n", "line 5: spaces between columns, and a tab on line 3"),
        ("the\tO\nsun B-X\n", "line 2: spaces between columns, and a tab on line 1"),
        ("the\tO\ncat\nsun\tB-X\n", "line 2: 1 column(s) where line 1 has 2: `cat`"),
        ("the\tO\ncat\t\nsun\tB-X\n", "line 2: a column is empty"),
        ("the\ncat\n", "line 1: only one column, where a word has its tags beside it: `the`"),
    ] {
        let path = write(folder.path(), "b.conll", text);
        let error = refused(TAG, &path);
        assert!(error.starts_with(&format!("{path}, {says}\n")), "{error}");
    }
}

#[test]
fn conll_is_read_with_any_columns() {
    let folder = tempfile::tempdir().unwrap();
    let four = "-DOCSTART- -X- -X- O\n\nthe DT B-NP O\ncat NN I-NP B-X\n\nsun NN B-NP B-Y\n";
    let tabs = "# a comment line\nthe\tO\ncat\tB-X\n\nsun\tB-Y";
    for (name, text, settings) in [
        ("a.conll", four, ""),
        ("a.txt", four, "data.format=conll data.label_column=\"4\" data.column=\"1\""),
        ("b.iob2", tabs, ""),
    ] {
        let path = write(folder.path(), name, text);
        let settings = format!("{TAG} {settings}");
        let corpus = open(&settings, &path).unwrap();
        assert_eq!(corpus.labels(), ["B-X", "B-Y", "O"], "{name}");
        let batch = batches(&settings, &path, 1).remove(0);
        let Labels::Tags(tags) = &batch.labels else { panic!("{:?}", batch.labels) };
        let mut tags: Vec<i64> = tags.iter().copied().filter(|tag| *tag >= 0).collect();
        tags.sort_unstable();
        assert_eq!(tags, [0, 1, 2], "{name}");
    }
    let third = open(&format!("{TAG} data.label_column=\"3\""), &write(folder.path(), "c.conll", four)).unwrap();
    assert_eq!(third.labels(), ["B-NP", "I-NP"]);
    // CoNLL-U: comments have no columns, and two kinds of lines are no words of the text.
    let word = |id: &str, text: &str, tag: &str| format!("{id}\t{text}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n");
    let universal = [
        "# newdoc\n# text = the cat sat on a mat and ran far\n".to_owned(),
        word("1-2", "thecat", "_"),
        word("1", "the", "DET"),
        word("2", "cat", "NOUN"),
        word("2.1", "sat", "VERB"),
        "\n#newpar\n".to_owned(),
        word("1", "sun", "NOUN"),
    ];
    let path = write(folder.path(), "f.conll", &universal.concat());
    let settings = format!("{TAG} data.column=\"2\" data.label_column=\"4\"");
    assert_eq!(open(&settings, &path).unwrap().labels(), ["DET", "NOUN"]);
    for column in ["0", "word"] {
        let error = refused(&format!("{TAG} data.column=\"{column}\""), &path);
        assert!(error.contains(&format!("`{column}` is no column")) && error.contains("data.column"), "{error}");
    }
    let path = write(folder.path(), "d.conll", "the O\ncat\nsun B-X\n");
    let error = refused(TAG, &path);
    assert!(error.contains("line 2: 1 column(s) where line 1 has 2: `cat`"), "{error}");
    let path = write(folder.path(), "e.conll", "the O\ncat O\n");
    let error = refused(&format!("{TAG} data.label_column=\"7\""), &path);
    assert!(error.contains("no column 7: the file has 2") && error.contains("data.label_column"), "{error}");
}

#[test]
fn numbers_are_read_and_what_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "objective.kind=classify objective.regression=true data.label_column=score data.eval_fraction=0 \
                    batch.slots=1 batch.micro_batch=2";
    let path = write(folder.path(), "a.csv", "text,score\ncat,2.5\ndog,-1\n");
    let batch = batches(settings, &path, 1).remove(0);
    let Labels::Score(scores) = &batch.labels else { panic!("{:?}", batch.labels) };
    assert_eq!(scores.iter().sum::<f64>(), 1.5);
    assert!(open(settings, &path).unwrap().labels().is_empty());
    let path = write(folder.path(), "b.csv", "text,score\ncat,2.5\ndog,high\nsun,NaN\n");
    let error = refused(settings, &path);
    assert!(error.contains("line 3: `high` is no number") && error.contains("line 4: `NaN` is no number"), "{error}");
}

#[test]
fn labels_that_are_none_of_the_listed_ones_are_named_and_listed_ones_need_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.csv", "text,label\ncat,good\ndog,bad\n");
    let settings = "objective.kind=classify data.label_column=label data.eval_fraction=0 objective.labels=";
    let more = open(&format!("{settings}[\"good\",\"bad\",\"neutral\"]"), &path).unwrap();
    assert_eq!(more.labels(), ["good", "bad", "neutral"]);
    let error = refused(&format!("{settings}[\"god\",\"bda\"]"), &path);
    for row in ["line 2: `good` is none of the 2 labels", "line 3: `bad` is none of the 2 labels"] {
        assert!(error.contains(row), "{error}");
    }
    let path =
        write(folder.path(), "b.jsonl", "{\"text\": \"cat\", \"label\": \"\"}\n{\"text\": \"dog\", \"label\": \"x\"}");
    let error = refused("objective.kind=classify data.label_column=label data.eval_fraction=0", &path);
    assert!(error.starts_with(&format!("{path}, line 1: the label is empty\n  help: write it, or leave")), "{error}");
    let blank = write(folder.path(), "c.csv", "text,label\ncat,good\ndog,bad\nsun,  \n");
    let error = refused("objective.kind=classify data.label_column=label data.eval_fraction=0", &blank);
    assert!(error.starts_with(&format!("{blank}, line 4: the label is empty\n")), "{error}");
}

#[test]
fn pairs_that_match_become_rows_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.csv", "text,other\nthe cat sat,dog\nsun,the mat\n");
    let settings = "objective.kind=match data.pair_column=other data.eval_fraction=0 batch.slots=1 batch.micro_batch=2";
    let batch = batches(settings, &path, 1).remove(0);
    assert_eq!((batch.samples, &batch.labels, batch.segment_ids.is_none()), (4, &Labels::Match, true));
    let text = |row: usize| {
        let ids: Vec<u32> =
            batch.ids[row * batch.sequence_length..][..batch.sequence_length].iter().map(|id| *id as u32).collect();
        tokenizer().decode(&ids).unwrap()
    };
    let pairs: BTreeSet<(String, String)> = [(text(0), text(1)), (text(2), text(3))].into();
    let expected = [("sun", "the mat"), ("the cat sat", "dog")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(pairs, BTreeSet::from(expected));
    let (predicted, _) = separate_batch(&tokenizer(), &[("the cat sat", "dog")], 32).unwrap();
    assert_eq!((predicted.samples, predicted.tokens()), (2, 5 + 3));
}

#[test]
fn groups_stay_together() {
    let folder = tempfile::tempdir().unwrap();
    let csv: String = (0..300).map(|row| format!("{row} the cat,{},g{}\n", row % 2, row % 23)).collect();
    let path = write(folder.path(), "a.csv", &format!("text,label,who\n{csv}"));
    let settings =
        "objective.kind=classify data.label_column=label data.group_column=who data.eval_fraction=0.2 batch.slots=1";
    let group = |text: &str| {
        let row: usize = text.split(" the").next().unwrap().replace(' ', "").replace("##", "").parse().unwrap();
        row % 23
    };
    let groups = |batches: &[Batch]| -> Vec<usize> {
        let rows = batches.iter().flat_map(|batch| batch.ids.chunks(batch.sequence_length));
        rows.map(|row| group(&tokenizer().decode(&row.iter().map(|id| *id as u32).collect::<Vec<_>>()).unwrap()))
            .collect()
    };
    let config_of = |more: &str| config(&format!("{settings} {more} batch.micro_batch=1"), &[&path]);
    let sides = |more: &str, steps: u64| {
        let config = config_of(more);
        let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
        loader.assign(&[(SlotId(0), Cursor::default())]);
        let trained: Vec<Batch> =
            (1..=steps).flat_map(|step| loader.next(SlotId(0), Step(step)).unwrap().batches).collect();
        (groups(&trained), groups(&loader.eval_batches(1000).unwrap()))
    };
    let (_, held) = sides("", 1);
    assert!((60..=75).contains(&held.len()), "about a fifth: {}", held.len());
    let epoch = 300 - held.len() as u64;
    let (trained, _) = sides("", epoch);
    let set = |groups: &[usize]| groups.iter().copied().collect::<BTreeSet<_>>();
    assert!(set(&trained).is_disjoint(&set(&held)));
    assert_eq!(set(&trained).len() + set(&held).len(), 23);
    let (other, other_held) = sides("run.seed=7", epoch.min(100));
    assert!(set(&other).is_disjoint(&set(&other_held)) && set(&other_held) != set(&held));
    let (limited, _) = sides("data.limit_rows=20", 20);
    assert!(set(&limited).is_disjoint(&set(&held)));
    // Held-out files that share a group with the others are refused.
    let eval = write(folder.path(), "e.csv", "text,label,who\nthe cat,0,new\nthe dog,1,g3\n");
    let error = refused(&format!("{settings} data.eval_paths=[\"{eval}\"]"), &path);
    assert!(error.starts_with(&format!("{eval}, line 3: the group `g3` is held out here")), "{error}");
}

#[test]
fn questions_for_prediction_are_cut_as_in_training() {
    let rule = config("objective.kind=answer batch.sequence_length=16", &["none.json"]).objective.windows(16);
    let passage = "cat ".repeat(20);
    let all = question_batches(&tokenizer(), &[("the sun", &passage), ("dog", "the mat")], rule, 2).unwrap();
    let windows: Vec<_> = all
        .iter()
        .flat_map(|batch| match &batch.labels {
            Labels::Answer { windows, .. } => windows.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(windows.last().map(|last| last.tokens.clone()), Some(0..2));
    assert_eq!(windows.iter().rfind(|window| window.goes_on(&windows[0])).unwrap().tokens.end, 20);
    assert!(all.iter().all(|batch| batch.samples <= 2));
}

#[test]
fn a_group_of_all_cannot_be_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.csv", "text,label,who\ncat,0,x\ndog,1,x\n");
    let settings = "objective.kind=classify data.label_column=label data.group_column=who data.eval_fraction=0.2";
    let error = Corpus::open(&config(settings, &[&path])).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Empty);
    assert!(error.to_string().contains("all rows are of one group"), "{error}");
}

#[test]
fn labels_that_only_held_out_rows_have_and_words_without_tags_are_named_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path(), "train.csv", "text,label\ncat,good\ndog,bad\n");
    let test = write(folder.path(), "test.csv", "text,label\nsun,good\ndog,worse\n");
    let settings = format!("objective.kind=classify data.label_column=label data.eval_paths=[\"{test}\"]");
    let error = refused(&settings, &train);
    assert!(error.contains("test.csv") && error.contains("line 3: `worse` is none of the 2 labels"), "{error}");

    let lines = "{\"text\":[\"cat\",\"sat\"],\"tags\":[\"N\",\"V\"]}\n{\"text\":[\"dog\",\"ran\"],\"tags\":[\"N\"]}\n";
    let path = write(folder.path(), "tags.jsonl", lines);
    let error = refused("objective.kind=tag data.label_column=tags", &path);
    assert!(error.contains("line 2: 2 words and 1 tags") && error.contains("one tag"), "{error}");
}

#[test]
fn a_part_of_what_is_held_out_is_a_fair_sample_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path(), "train.csv", "text,label\ncat,good\ndog,bad\n");
    let rows = |label: &str| format!("cat,{label}\n").repeat(320);
    let test = write(folder.path(), "test.csv", &format!("text,label\n{}{}", rows("bad"), rows("good")));
    let settings = format!("objective.kind=classify data.label_column=label data.eval_paths=[\"{test}\"]");
    let config = config(&settings, &[&train]);
    let loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    let classes = |samples| {
        let batches = loader.eval_batches(samples).unwrap();
        let of = |batch: &Batch| match &batch.labels {
            Labels::Class(classes) => classes.clone(),
            other => panic!("{other:?}"),
        };
        batches.iter().flat_map(of).collect::<Vec<i64>>()
    };
    let some = classes(160);
    let good = some.iter().filter(|class| **class == 1).count();
    assert!(some.len() == 160 && (30..=130).contains(&good), "{good} of {}", some.len());
    assert_eq!(some, classes(160), "the same ones whenever it is asked");
    assert_eq!(classes(10_000).len(), 640);
}

#[test]
fn questions_are_counted_and_not_their_windows() {
    let folder = tempfile::tempdir().unwrap();
    let row = |number: usize| {
        let passage = format!("{number} {}", "the cat sat on a mat ".repeat(12));
        let start = passage.find("cat").unwrap();
        format!(
            "{{\"text\":\"{passage}\",\"question\":\"cat?\",\"answers\":{{\"text\":[\"cat\"],\"answer_start\":[{start}]}}}}\n"
        )
    };
    let path = write(folder.path(), "a.jsonl", &(0..8).map(row).collect::<String>());
    let settings = "objective.kind=answer objective.max_question_length=4 objective.stride=10 data.eval_fraction=0.5 \
                    data.unit_rows=2";
    let config = config(settings, &[&path]);
    let loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
    let windows = |questions| loader.eval_batches(questions).unwrap().iter().map(|batch| batch.samples).sum::<usize>();
    let each = windows(1);
    assert!(each > 2, "{each} windows");
    assert_eq!((windows(3), windows(100)), (3 * each, 4 * each));
}

#[test]
fn answers_under_another_name_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let line = |more: &str| format!("{{\"text\":\"the cat\",\"question\":\"who?\"{more}}}\n");
    let answered = line(",\"answers\":{\"text\":[\"cat\"],\"answer_start\":[4]}");
    let settings = "objective.kind=answer objective.max_question_length=4 objective.stride=10 objective.no_answer_threshold=0.0 \
                    data.eval_fraction=0";
    let path = write(folder.path(), "a.jsonl", &(line("") + &answered));
    open(settings, &path).unwrap();
    let error = refused(&format!("{settings} data.label_column=answer"), &path);
    assert!(error.contains("`answer`") && error.contains("answers"), "{error}");
}

#[test]
fn a_pair_without_others_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..5).map(|row| format!("cat {row},dog {row}\n")).collect();
    let train = write(folder.path(), "train.csv", &format!("text,other\n{rows}"));
    let settings = "objective.kind=match data.pair_column=other batch.micro_batch=2";
    let samples = |held_out: usize| {
        let rows: String = (0..held_out).map(|row| format!("sun {row},mat {row}\n")).collect();
        let test = write(folder.path(), "test.csv", &format!("text,other\n{rows}"));
        let config = config(&format!("{settings} data.eval_paths=[\"{test}\"]"), &[&train]);
        let loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), Arc::new(tokenizer()), &config);
        loader.eval_batches(100).unwrap().iter().map(|batch| batch.samples).collect::<Vec<_>>()
    };
    assert_eq!(samples(4), [4, 4]);
    assert_eq!(samples(5), [4, 4], "the fifth has nobody to be told from");
    assert_eq!(samples(1), [2], "all there is");
}
