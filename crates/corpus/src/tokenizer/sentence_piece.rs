//! SentencePiece's `.model` files as a tokenizer.json: Unigram or BPE, its normaliser, and `▁` for spaces.
//!
//! The file is a protocol buffer (sentencepiece_model.proto), of which a few fields are read. What the tokenizers crate
//! makes of it gives the same pieces as SentencePiece itself (tests/golden/tests/sentence_piece.rs).

use crate::{CorpusError, ErrorKind};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What stands for a space.
const SPACE: &str = "▁";

/// Kinds of pieces (`ModelProto.SentencePiece.Type`).
mod kind {
    pub const NORMAL: u64 = 1;
    pub const UNKNOWN: u64 = 2;
    pub const CONTROL: u64 = 3;
    pub const USER_DEFINED: u64 = 4;
}

/// Algorithms (`TrainerSpec.ModelType`).
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

struct Model {
    /// Piece, score, kind.
    pieces: Vec<(String, f32, u64)>,
    algorithm: u64,
    byte_fallback: bool,
    splits_at_space: bool,
    space_is_suffix: bool,
    charsmap: Vec<u8>,
    adds_space: bool,
    removes_spaces: bool,
}

/// Whether a file begins as a `.model` does: with a piece that begins with its text. No vocab.txt or JSON does.
pub(super) fn is_model(contents: &[u8]) -> bool {
    matches!(contents, [0x0a, length, 0x0a, text, ..] if text < length && *text > 0)
}

/// The text of a tokenizer.json. `roles` are the spellings of each special token; the first one is added to the
/// vocabulary where it has none of them.
pub(super) fn to_json(name: &str, contents: &[u8], roles: &[[&str; 2]]) -> Result<String, CorpusError> {
    let broken = |message: String| {
        let help = "give the .model file that SentencePiece wrote, or the model's tokenizer.json";
        CorpusError::new(ErrorKind::Tokenizer, name, message, help)
    };
    let model = Model::read(contents).map_err(broken)?;
    let unknown = model.pieces.iter().position(|(.., kind)| *kind == kind::UNKNOWN);
    let unknown = unknown.ok_or_else(|| broken("the model has no piece for unknown text".to_owned()))?;
    if model.space_is_suffix {
        return Err(broken("it writes spaces after words (treat_whitespace_as_suffix), which is not supported".into()));
    }
    let spaces = |scheme: &str| {
        json!({
            "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": model.splits_at_space,
        })
    };
    let algorithm = match model.algorithm {
        UNIGRAM => {
            let pieces: Vec<Value> = model.pieces.iter().map(|(piece, score, _)| json!([piece, score])).collect();
            json!({ "type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": model.byte_fallback })
        }
        BPE => {
            let ids: HashMap<&str, usize> =
                (0..).zip(&model.pieces).map(|(id, (piece, ..))| (piece.as_str(), id)).collect();
            json!({
                "type": "BPE", "dropout": null, "unk_token": model.pieces[unknown].0, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": model.byte_fallback,
                "ignore_merges": false, "vocab": ids, "merges": model.merges(&ids),
            })
        }
        other => return Err(broken(format!("its model_type is {other}; Unigram (1) and BPE (2) are supported"))),
    };
    let token = |id: usize, text: &str, special: bool| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special,
        })
    };
    let mut added: Vec<Value> = (0..)
        .zip(&model.pieces)
        .filter(|(_, (.., kind))| matches!(*kind, kind::UNKNOWN | kind::CONTROL | kind::USER_DEFINED))
        .map(|(id, (piece, _, kind))| token(id, piece, *kind != kind::USER_DEFINED))
        .collect();
    let mut next = model.pieces.len();
    for spellings in roles {
        if !model.pieces.iter().any(|(piece, ..)| spellings.contains(&piece.as_str())) {
            added.push(token(next, spellings[0], true));
            next += 1;
        }
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": model.normalizers() },
        // The space in front is the normaliser's: this one would leave it out before a text that begins with `▁`.
        "pre_tokenizer": spaces("never"), "post_processor": null,
        "decoder": spaces(if model.adds_space { "always" } else { "never" }), "model": algorithm,
    })
    .to_string())
}

impl Model {
    fn read(contents: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: UNIGRAM,
            byte_fallback: false,
            splits_at_space: true,
            space_is_suffix: false,
            charsmap: Vec::new(),
            adds_space: true,
            removes_spaces: true,
        };
        for field in fields(contents) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
                (2, Field::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field? {
                            (3, Field::Number(kind)) => model.algorithm = kind,
                            (22, Field::Number(on)) => model.splits_at_space = on != 0,
                            (24, Field::Number(on)) => model.space_is_suffix = on != 0,
                            (35, Field::Number(on)) => model.byte_fallback = on != 0,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3, Field::Number(on)) => model.adds_space = on != 0,
                            (4, Field::Number(on)) => model.removes_spaces = on != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() { Err("there is no piece in it".to_owned()) } else { Ok(model) }
    }

    fn normalizers(&self) -> Vec<Value> {
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&self.charsmap) }));
        }
        if self.removes_spaces {
            steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
            steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
        }
        if self.adds_space {
            steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        steps
    }

    /// BPE's merges, which the file does not hold: each piece of two others, the piece with the best score first.
    fn merges(&self, ids: &HashMap<&str, usize>) -> Vec<[String; 2]> {
        let mut found: Vec<(f32, &str, &str)> = Vec::new();
        for (piece, score, kind) in &self.pieces {
            if *kind != kind::NORMAL {
                continue;
            }
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if ids.contains_key(left) && ids.contains_key(right) {
                    found.push((*score, left, right));
                }
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (ids[a.1], ids[a.2]).cmp(&(ids[b.1], ids[b.2]))));
        found.into_iter().map(|(_, left, right)| [left.to_owned(), right.to_owned()]).collect()
    }
}

fn read_piece(bytes: &[u8]) -> Result<(String, f32, u64), String> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, kind::NORMAL);
    for field in fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => {
                text = std::str::from_utf8(piece).map_err(|error| format!("a piece is no text: {error}"))?.to_owned();
            }
            (2, Field::Fixed(bits)) => score = f32::from_bits(bits),
            (3, Field::Number(number)) => kind = number,
            _ => {}
        }
    }
    Ok((text, score, kind))
}

/// A field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Fixed(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Number and contents of each field, until the first that is broken.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| "it is no SentencePiece model, or not whole".to_owned()))
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Field::Fixed64)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Field::Bytes(take(rest, length)?)
        }
        5 => Field::Fixed(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let place = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[place]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_published() {
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn only_models_are_taken_for_models() {
        assert!(is_model(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"));
        for other in [&b"[PAD]\n[UNK]\n"[..], b"\n\n", b"{}", b"", b"\x0a"] {
            assert!(!is_model(other), "{other:?}");
        }
    }

    #[test]
    fn a_model_that_is_not_whole_is_named() {
        let error = to_json("x.model", b"\x0a\x0e\x0a\x05<unk>", &[]).unwrap_err().to_string();
        assert!(error.contains("x.model") && error.contains("not whole"), "{error}");
    }
}
