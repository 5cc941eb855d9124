//! The tokenizer against Hugging Face's on nasty text, and vocabularies trained here.
#![allow(clippy::unwrap_used)]

use config::{ModelConfig, TokenizerConfig};
use corpus::{Columns, ErrorKind, FileSource, Tokenizer, WordPieceOptions, check_vocabulary, train_word_piece};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures/tokenizer")
}

fn open(lowercase: bool) -> Tokenizer {
    let path = fixtures().join("vocab.txt").display().to_string();
    Tokenizer::open(&TokenizerConfig { path, lowercase }).unwrap()
}

#[test]
fn ids_are_those_of_hugging_face() {
    let cases = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() > 40);
    for lowercase in [true, false] {
        let tokenizer = open(lowercase);
        let reopened = Tokenizer::from_bytes("reopened", tokenizer.bytes(), !lowercase).unwrap();
        assert_eq!(reopened.digest(), tokenizer.digest(), "vocab.txt and the tokenizer.json made of it are one");
        let mut encoder = tokenizer.encoder();
        for case in cases.iter().filter(|case| case["lowercase"] == lowercase) {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?} lowercase={lowercase}");
            // Twice, so that the second time words come from memory.
            for _ in 0..2 {
                let mut ids = Vec::new();
                encoder.encode(text, &mut ids).unwrap();
                assert_eq!(ids, expected, "by the encoder: {text:?} lowercase={lowercase}");
            }
        }
    }
}

/// Its special tokens are BERT's, at the end of the vocabulary; its pieces are bytes, and those that begin with no space go
/// on with a word.
#[test]
fn modern_berts_tokenizer_gives_the_ids_of_hugging_face() {
    let path = fixtures().join("modern.json").display().to_string();
    let tokenizer = Tokenizer::open(&TokenizerConfig { path, lowercase: true }).unwrap();
    let special = tokenizer.special();
    let names = [special.unknown, special.classify, special.separator, special.pad, special.mask]
        .map(|id| tokenizer.token(id).unwrap());
    assert_eq!(names, ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]);
    assert_eq!(special.mask as usize + 1, tokenizer.size());
    let cases = std::fs::read_to_string(fixtures().join("modern_cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() > 20);
    let mut encoder = tokenizer.encoder();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        for _ in 0..2 {
            let mut ids = Vec::new();
            encoder.encode(text, &mut ids).unwrap();
            assert_eq!(ids, expected, "by the encoder: {text:?}");
        }
    }
    let continues = |token: &str| tokenizer.is_continuation(tokenizer.id(token).unwrap());
    assert!(continues("e") && !continues("Ġ") && !continues("[SEP]") && !continues("  "));
    assert_eq!(tokenizer.separators_between(), 1);
    assert_eq!(tokenizer.decode(&tokenizer.encode("Hello  world").unwrap()).unwrap(), "Hello  world");
}

#[test]
fn special_ids_and_continuations_are_known() {
    let tokenizer = open(true);
    let special = tokenizer.special();
    assert_eq!((special.pad, special.unknown, special.classify, special.separator, special.mask), (0, 1, 2, 3, 4));
    assert!(tokenizer.is_continuation(tokenizer.id("##able").unwrap()));
    assert!(!tokenizer.is_continuation(tokenizer.id("hello").unwrap()));
    assert_eq!(tokenizer.decode(&tokenizer.encode("hello world").unwrap()).unwrap(), "hello world");
}

#[test]
fn bad_vocabularies_are_named() {
    let missing = Tokenizer::from_bytes("v.txt", b"[PAD]\n[UNK]\n[CLS]\nhello\n", true).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::Tokenizer);
    assert!(missing.to_string().contains("lacks [SEP], [MASK]"), "{missing}");
    let twice = Tokenizer::from_bytes("v.txt", b"[PAD]\na\na\n", true).unwrap_err();
    assert!(twice.to_string().contains("line 3: `a` stands in line 2 already"), "{twice}");
    let json = Tokenizer::from_bytes("t.json", b"{\"version\": 3}", true).unwrap_err();
    assert!(json.to_string().starts_with("t.json: no tokenizer.json"), "{json}");
    let none = Tokenizer::open(&TokenizerConfig { path: "/nowhere/vocab.txt".into(), lowercase: true }).unwrap_err();
    assert_eq!(none.kind, ErrorKind::NotFound);
    assert!(none.to_string().contains("coordinator tokenizer train"), "{none}");
}

#[test]
fn a_pointer_in_the_place_of_a_tokenizer_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let open = |name: &str| Tokenizer::open(&TokenizerConfig { path: path(name), lowercase: true }).unwrap_err();
    std::fs::write(path("vocab.txt"), pointer).unwrap();
    std::fs::write(path("vocab.json"), "{\"<s>\": 0}").unwrap();
    std::fs::write(path("merges.txt"), pointer).unwrap();
    for (error, name) in [
        (Tokenizer::from_bytes("t.json", pointer.as_bytes(), true).unwrap_err(), "t.json".to_owned()),
        (open("vocab.txt"), path("vocab.txt")),
        (open("vocab.json"), path("merges.txt")),
    ] {
        assert_eq!(error.kind, ErrorKind::Tokenizer);
        let expected = format!("{name}: it is a pointer of Git LFS, not the file itself\n  help: run `git lfs pull`");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn a_vocabulary_larger_than_the_models_is_refused() {
    let tokenizer = open(true);
    let mut shape = ModelConfig::default().shape(tokenizer.size() as i64, 128);
    assert!(check_vocabulary(&tokenizer, &shape).is_ok());
    shape.vocabulary = tokenizer.size() as i64 - 1;
    let error = check_vocabulary(&tokenizer, &shape).unwrap_err().to_string();
    assert!(
        error.contains(&format!("has {} tokens", tokenizer.size())) && error.contains("model.vocabulary"),
        "{error}"
    );
}

fn train(folder: &Path, size: usize) -> Tokenizer {
    let mut lines = String::new();
    for number in 0..400 {
        let text = format!("the runner number {number} is running and the walker is walking; 跑步的人在跑步");
        lines += &serde_json::json!({ "text": text }).to_string();
        lines.push('\n');
    }
    let path = folder.join("text.jsonl");
    std::fs::write(&path, lines).unwrap();
    let source = FileSource::open(&[path.display().to_string()], &[], None, &Columns::text("text")).unwrap();
    let mut heard = (0, 0);
    let options = WordPieceOptions { size, lowercase: true, min_frequency: 2 };
    let tokenizer = train_word_piece(&source, options, &mut |done, total| heard = (done, total)).unwrap();
    assert_eq!(heard, (400, 400));
    tokenizer
}

#[test]
fn a_trained_vocabulary_is_deterministic_and_merges_what_is_frequent() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = train(folder.path(), 100);
    for _ in 0..3 {
        assert_eq!(train(folder.path(), 100).digest(), tokenizer.digest());
    }
    assert_eq!(tokenizer.size(), 100);
    for token in ["the", "and", "is", "跑", "步"] {
        assert!(tokenizer.id(token).is_some(), "{token}");
    }
    assert_eq!(tokenizer.encode("跑步的").unwrap().len(), 3, "Chinese is cut into characters");
    let ids = tokenizer.encode("the runner is walking").unwrap();
    assert!(ids.len() <= 8 && !ids.contains(&tokenizer.special().unknown), "{ids:?}");

    tokenizer.write_folder(&folder.path().join("out")).unwrap();
    for name in ["tokenizer.json", "vocab.txt"] {
        let path = folder.path().join("out").join(name).display().to_string();
        let opened = Tokenizer::open(&TokenizerConfig { path, lowercase: true }).unwrap();
        assert_eq!(opened.digest(), tokenizer.digest(), "{name}");
    }
}

#[test]
fn a_vocabulary_too_small_for_words_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, "text\nhello there\n").unwrap();
    let source = FileSource::open(&[path.display().to_string()], &[], None, &Columns::text("text")).unwrap();
    let options = WordPieceOptions { size: 6, lowercase: true, min_frequency: 1 };
    let error = train_word_piece(&source, options, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("6 tokens leave no room"), "{error}");
}
