//! Byte-level BPE against Hugging Face's RobertaTokenizer, and vocabularies of it that are trained here.
#![allow(clippy::unwrap_used)]

use config::TokenizerConfig;
use corpus::{
    ByteLevelOptions, Columns, FileSource, Labels, Tokenizer, choice_batch, question_batches, text_batch,
    train_byte_level, word_batch,
};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures/tokenizer")
}

/// `vocab.json` and `merges.txt` in a folder, with what tokenizer_config.json says of spaces before texts.
fn open(spaces: Option<bool>) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(fixtures().join("roberta").join(name), folder.path().join(name)).unwrap();
    }
    if let Some(spaces) = spaces {
        let config = format!("{{\"add_prefix_space\": {spaces}}}");
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    }
    let path = folder.path().join("vocab.json").display().to_string();
    Tokenizer::open(&TokenizerConfig { path, lowercase: true }).unwrap()
}

fn cases(spaces: bool) -> Vec<serde_json::Value> {
    let cases = std::fs::read_to_string(fixtures().join("roberta_cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    let cases: Vec<_> = cases.into_iter().filter(|case| case["spaces"] == spaces).collect();
    assert!(cases.len() > 20);
    cases
}

fn ids(value: &serde_json::Value) -> Vec<i64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn special_ids_are_robertas() {
    let tokenizer = open(None);
    let special = tokenizer.special();
    assert_eq!((special.classify, special.pad, special.separator, special.unknown), (0, 1, 2, 3));
    assert_eq!(special.mask as usize, tokenizer.size() - 1);
    assert_eq!(tokenizer.separators_between(), 2);
}

#[test]
fn texts_pairs_and_words_are_encoded_as_by_hugging_face() {
    for spaces in [false, true] {
        let tokenizer = open(spaces.then_some(true));
        for case in cases(spaces) {
            let text = case["text"].as_str().unwrap();
            let (single, pair) = (ids(&case["ids"]), ids(&case["pair"]));
            let encoded: Vec<i64> = tokenizer.encode(text).unwrap().into_iter().map(i64::from).collect();
            assert_eq!(encoded, single[1..single.len() - 1], "{text:?} spaces={spaces}");
            let row = |batch: corpus::Batch| {
                let real = batch.mask.as_ref().map_or(batch.ids.len(), |mask| mask.iter().filter(|it| **it).count());
                batch.ids[..real].to_vec()
            };
            assert_eq!(row(text_batch(&tokenizer, &[text], None, 512).unwrap().0), single, "{text:?}");
            let (batch, _) = text_batch(&tokenizer, &[text], Some(&["the end"]), 512).unwrap();
            assert_eq!(row(batch), pair, "{text:?} and another, spaces={spaces}");
            // Words by themselves, which Hugging Face only encodes with spaces before them; so does the other one here.
            if let Some(words) = case.get("words") {
                for tokenizer in [&tokenizer, &open(None)] {
                    let (batch, _) = word_batch(tokenizer, &[text.split_whitespace().collect()], 512).unwrap();
                    assert_eq!(row(batch), ids(words), "the words of {text:?}");
                }
            }
        }
    }
}

#[test]
fn a_passage_stands_behind_two_separators() {
    let tokenizer = open(None);
    let objective = config::ObjectiveConfig::default();
    let passage = "the walker and the runner ".repeat(6);
    // As large as a window can be with one separator; with two there is a token less.
    let mut windows = objective.windows(32);
    let question = tokenizer.encode("the end").unwrap().len();
    windows.stride = 32 - question - 3;
    let batches = question_batches(&tokenizer, &[("the end", &passage)], windows, 64).unwrap();
    let Labels::Answer { windows: found, .. } = &batches[0].labels else { panic!("no answers") };
    assert!(found.len() > 1);
    let mut next = 0;
    for (row, window) in found.iter().enumerate() {
        let ids = &batches[0].ids[row * batches[0].sequence_length..][..batches[0].sequence_length];
        assert_eq!((ids[0], &ids[question + 1..question + 3], window.first), (0, &[2, 2][..], question + 3));
        assert!(window.tokens.start <= next, "a token of the passage is in no window");
        next = window.tokens.end;
        assert_eq!(ids[window.first + window.tokens.len()], 2);
    }
    assert_eq!(next, tokenizer.encode(&passage).unwrap().len());
}

#[test]
fn a_choice_stands_behind_its_question_as_in_one_text() {
    let tokenizer = open(None);
    let choices = ["the walker", "New York"];
    let (batch, cut) = choice_batch(&tokenizer, &[("the end", Some("who ran? "), choices.to_vec())], 64).unwrap();
    assert_eq!((batch.samples, cut), (2, vec![false]));
    for (row, choice) in choices.iter().enumerate() {
        let parts = [tokenizer.encode("the end").unwrap(), tokenizer.encode(&format!("who ran? {choice}")).unwrap()];
        let expected = [&[0], &parts[0][..], &[2, 2], &parts[1], &[2]].concat();
        let ids: Vec<u32> = batch.ids[row * batch.sequence_length..].iter().map(|id| *id as u32).collect();
        assert_eq!(ids[..expected.len()], expected);
    }
    // A question too long is cut before its choice.
    let long = "the walker and the runner ".repeat(9);
    let (batch, cut) = choice_batch(&tokenizer, &[("the end", Some(&long), choices.to_vec())], 32).unwrap();
    let choice = tokenizer.encode(" New York").unwrap();
    let ids: Vec<u32> = batch.ids[32..].iter().map(|id| *id as u32).collect();
    assert_eq!((&ids[31 - choice.len()..31], ids[31], cut), (&choice[..], 2, vec![true]));
}

#[test]
fn words_begin_with_a_space_or_the_text() {
    let tokenizer = open(Some(true));
    let ids = tokenizer.encode("The Runner, unaffable\nnow").unwrap();
    let mut words: Vec<String> = Vec::new();
    for id in ids {
        let token = tokenizer.token(id).unwrap();
        match words.last_mut() {
            Some(word) if tokenizer.is_continuation(id) => word.push_str(&token),
            _ => words.push(token),
        }
    }
    assert_eq!(words, ["ĠThe", "ĠRunner,", "Ġunaffable", "Ċnow"]);
    let special = tokenizer.special();
    let all = [special.pad, special.unknown, special.classify, special.separator, special.mask];
    assert!(all.into_iter().all(|id| !tokenizer.is_continuation(id)));
}

#[test]
fn what_does_not_belong_together_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, contents: &str| std::fs::write(folder.path().join(name), contents).unwrap();
    let path = folder.path().join("vocab.json").display().to_string();
    let error = || Tokenizer::open(&TokenizerConfig { path: path.clone(), lowercase: false }).unwrap_err().to_string();
    write("vocab.json", r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}"#);
    assert!(error().contains("merges.txt"), "{}", error());
    write("merges.txt", "#version: 0.2\na b\nb c\n");
    assert!(error().contains("line 3 of merges.txt: `b c`"), "{}", error());
    write("merges.txt", "#version: 0.2\na b\n");
    assert!(error().contains("lacks <mask>"), "{}", error());
    let alone = Tokenizer::from_bytes("v.json", br#"{"<s>": 0}"#, false).unwrap_err().to_string();
    assert!(alone.contains("vocab.json") && alone.contains("merges.txt"), "{alone}");
}

fn train(folder: &Path, size: usize) -> Result<Tokenizer, corpus::CorpusError> {
    let mut lines = String::new();
    for number in 0..400 {
        let text = format!("The runner number {number} is running and the Café's walker is walking; 跑步的人在跑步");
        lines += &serde_json::json!({ "text": text }).to_string();
        lines.push('\n');
    }
    let path = folder.join("text.jsonl");
    std::fs::write(&path, lines).unwrap();
    let source = FileSource::open(&[path.display().to_string()], &[], None, &Columns::text("text")).unwrap();
    train_byte_level(&source, ByteLevelOptions { size, min_frequency: 2 }, &mut |_, _| ())
}

#[test]
fn a_trained_vocabulary_is_deterministic_and_comes_back_from_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = train(folder.path(), 400).unwrap();
    for _ in 0..3 {
        assert_eq!(train(folder.path(), 400).unwrap().digest(), tokenizer.digest());
    }
    let special = tokenizer.special();
    assert_eq!((special.classify, special.pad, special.separator, special.unknown), (0, 1, 2, 3));
    assert!(tokenizer.size() <= 400 && special.mask as usize == tokenizer.size() - 1);
    for token in ["Ġrunner", "Ġwalking", "ĠThe", "Ġthe"] {
        assert!(tokenizer.id(token).is_some(), "{token}");
    }
    let text = "The Zebra's café 跑步\t🙂";
    let ids = tokenizer.encode(text).unwrap();
    assert!(!ids.contains(&special.unknown), "every text is bytes");
    assert_eq!(tokenizer.decode(&ids).unwrap().trim_start(), text);

    let out = folder.path().join("out");
    tokenizer.write_folder(&out).unwrap();
    std::fs::write(out.join("tokenizer_config.json"), "{\"add_prefix_space\": true}").unwrap();
    for name in ["tokenizer.json", "vocab.json"] {
        let path = out.join(name).display().to_string();
        let opened = Tokenizer::open(&TokenizerConfig { path, lowercase: true }).unwrap();
        assert_eq!(opened.digest(), tokenizer.digest(), "{name}");
        assert_eq!(opened.identity(), tokenizer.identity(), "{name}");
    }
    assert!(!out.join("vocab.txt").exists());
    let error = train(folder.path(), 261).unwrap_err().to_string();
    assert!(error.contains("261 tokens leave no room"), "{error}");
}
