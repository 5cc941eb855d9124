//! SentencePiece's models give the ids that SentencePiece gives (fixtures/sentence_piece).

#![allow(clippy::unwrap_used)] // also in the functions beside the tests

use config::TokenizerConfig;
use corpus::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn open(name: &str) -> Tokenizer {
    let path = golden::path("sentence_piece").join(name);
    Tokenizer::open(&TokenizerConfig { path: path.display().to_string(), lowercase: false }).unwrap()
}

fn check(name: &str) {
    let tokenizer = open(&format!("{name}.model"));
    let text = std::fs::read_to_string(golden::path("sentence_piece").join(format!("{name}.json"))).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.iter().map(|case| case.ids.len()).sum::<usize>() > 50);
    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
    }
}

#[test]
fn unigram_gives_the_same_ids() {
    check("unigram");
}

#[test]
fn bpe_gives_the_same_ids() {
    check("bpe");
}

#[test]
fn special_tokens_are_the_model_s_or_added_behind_it() {
    let tokenizer = open("unigram.model");
    let special = tokenizer.special();
    assert_eq!(special.pad, tokenizer.id("<pad>").unwrap());
    assert_eq!(special.unknown, tokenizer.id("<unk>").unwrap());
    assert_eq!(special.classify, tokenizer.id("[CLS]").unwrap());
    assert_eq!(special.mask, tokenizer.id("[MASK]").unwrap());
    assert_eq!(tokenizer.encode("the [MASK]").unwrap().last(), Some(&special.mask));
    // What is written as a tokenizer.json is the same tokenizer.
    let again = Tokenizer::from_bytes("tokenizer.json", tokenizer.bytes(), true).unwrap();
    assert_eq!(again.identity(), tokenizer.identity());
}
