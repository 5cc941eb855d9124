//! What a tokenizer makes of text, as one hash: a model belongs to one.

use super::Tokenizer;
use crate::{CorpusError, ErrorKind};
use tokenizers::ModelWrapper;
use types::Digest;

impl Tokenizer {
    /// A hash of what decides which ids a text becomes: every token with its id, the normaliser, the pre-tokenizer, and
    /// merges or scores where the vocabulary alone does not tell how a word falls into pieces.
    /// Unlike [`Tokenizer::digest`] it is the same for a `vocab.txt` and the `tokenizer.json` made of it, and whatever a
    /// file says of padding, truncation and spaces between its keys.
    pub fn identity(&self) -> Digest {
        let normalizer = serde_json::to_string(&self.inner.get_normalizer()).unwrap_or_default();
        let pre_tokenizer = serde_json::to_string(&self.inner.get_pre_tokenizer()).unwrap_or_default();
        let pieces = match self.inner.get_model() {
            // The longest piece that there is, or the whole word.
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => String::new(),
            model => format!("\0{}", pieces(model)),
        };
        Digest::blake3(format!("{}\0{normalizer}\0{pre_tokenizer}{pieces}", self.vocabulary_text()).as_bytes())
    }

    /// Refuses this tokenizer for a model that was trained with another one: `recorded` is the identity that the model
    /// says (`trireme_tokenizer` in an export's config.json), if it says one. `name` is for the error.
    pub fn check_identity(&self, name: &str, recorded: Option<&str>) -> Result<(), CorpusError> {
        let found = self.identity().to_string();
        match recorded {
            Some(recorded) if recorded != found => Err(CorpusError::new(
                ErrorKind::Tokenizer,
                name,
                format!("the tokenizer does not belong to the model: its hash is {found}, the model's is {recorded}"),
                "use the tokenizer.json that lay beside the model's weights: with another one each id means another word",
            )),
            _ => Ok(()),
        }
    }
}

/// What decides how a word falls into pieces, as `tokenizer.json` names it. By name, so that a library's later additions to
/// that file leave the hash alone.
fn pieces(model: &ModelWrapper) -> String {
    const DECIDING: [&str; 9] = [
        "type",
        "merges",
        "unk_id",
        "unk_token",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
        "continuing_subword_prefix",
        "end_of_word_suffix",
    ];
    let file = serde_json::to_value(model).unwrap_or_default();
    // A unigram's vocabulary has the scores.
    let scores = matches!(model, ModelWrapper::Unigram(_)).then_some("vocab");
    let told = DECIDING.into_iter().chain(scores).map(|key| format!("{key}={}", file[key]));
    told.collect::<Vec<_>>().join("\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\nwind\n";

    fn of(words: &str, lowercase: bool) -> Tokenizer {
        Tokenizer::from_bytes("vocab.txt", words.as_bytes(), lowercase).unwrap()
    }

    #[test]
    fn what_changes_ids_changes_the_hash_and_nothing_else_does() {
        let tokenizer = of(WORDS, true);
        let spaced = String::from_utf8(tokenizer.bytes().to_vec()).unwrap().replace("\":", "\" : ");
        let same = Tokenizer::from_bytes("tokenizer.json", spaced.as_bytes(), true).unwrap();
        assert_eq!(tokenizer.identity(), same.identity());
        assert_ne!(tokenizer.identity(), of(WORDS, false).identity(), "cased");
        assert_ne!(tokenizer.identity(), of(&WORDS.replace("sea\nwind", "wind\nsea"), true).identity(), "other ids");
    }

    #[test]
    fn the_order_of_merges_decides_how_words_fall_into_pieces() {
        let special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
        let of = |merges: [&str; 2]| {
            let words = special.into_iter().chain(["a", "b", "c", "ab", "bc"]).enumerate();
            let vocabulary: serde_json::Map<String, serde_json::Value> =
                words.map(|(id, word)| (word.to_owned(), id.into())).collect();
            let added = special.iter().enumerate().map(|(id, word)| {
                serde_json::json!({
                    "id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            });
            let file = serde_json::json!({
                "version": "1.0",
                "added_tokens": added.collect::<Vec<_>>(),
                "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
                "model": { "type": "BPE", "unk_token": "<unk>", "vocab": vocabulary, "merges": merges },
            });
            Tokenizer::from_bytes("tokenizer.json", file.to_string().as_bytes(), true).unwrap()
        };
        let [first, second] = [of(["a b", "b c"]), of(["b c", "a b"])];
        let ids = |tokenizer: &Tokenizer| tokenizer.encode("abc").unwrap();
        assert_ne!(ids(&first), ids(&second), "the same words, other pieces");
        assert_ne!(first.identity(), second.identity());
        assert_eq!(first.identity(), of(["a b", "b c"]).identity());
    }

    #[test]
    fn another_tokenizer_is_refused_with_both_hashes() {
        let (ours, other) = (of(WORDS, true), of(&format!("{WORDS}ship\n"), true));
        let recorded = ours.identity().to_string();
        assert!(ours.check_identity("t", Some(&recorded)).is_ok());
        assert!(other.check_identity("t", None).is_ok(), "a model that says nothing");
        let error = other.check_identity("t", Some(&recorded)).unwrap_err().to_string();
        assert!(error.contains(&recorded) && error.contains(&other.identity().to_string()), "{error}");
    }
}
