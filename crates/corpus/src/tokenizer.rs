//! Text to token ids, by Hugging Face's `tokenizers`: a `tokenizer.json`, a `vocab.txt` for BERT's WordPiece, a `.model` of
//! SentencePiece, or `vocab.json` and `merges.txt` for RoBERTa's byte-level BPE.

mod byte_level;
mod encoder;
mod identity;
mod ranges;
mod sentence_piece;
mod train;

pub use encoder::Encoder;
pub use train::{ByteLevelOptions, WordPieceOptions, train_byte_level, train_word_piece};

use crate::source::refuse_pointer;
use crate::{CorpusError, ErrorKind, whole_file};
use config::{Architecture, ModelShape, PADDING_ID, TokenizerConfig};
use std::collections::HashMap;
use std::path::Path;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, ModelWrapper};
use types::Digest;

/// The ids with a role of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[PAD]`
    pub pad: u32,
    /// `[UNK]`
    pub unknown: u32,
    /// `[CLS]`
    pub classify: u32,
    /// `[SEP]`
    pub separator: u32,
    /// `[MASK]`
    pub mask: u32,
}

/// The special tokens, in the order in which a vocabulary trained here begins with them.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The same in other families' spellings.
const OTHER_SPELLINGS: [&str; 5] = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"];

/// A tokenizer that has BERT's five special tokens, in one spelling or the other.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
    size: usize,
    special: SpecialIds,
    /// By id: a piece that goes on with the word of the piece before it.
    continuation: Vec<bool>,
    /// Separators between the two texts of a pair.
    separators: usize,
    /// A word by itself has to be given the space before it, or it is encoded as the rest of another word.
    spaces_words: bool,
    /// Text may be cut at ASCII white space and encoded piece by piece, with the same result.
    splits_at_space: bool,
}

impl Tokenizer {
    /// Opens `tokenizer.path`.
    pub fn open(config: &TokenizerConfig) -> Result<Self, CorpusError> {
        let path = Path::new(&config.path);
        let read = |path: &Path| -> Result<Vec<u8>, CorpusError> {
            let name = path.display().to_string();
            let contents = std::fs::read(path).map_err(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Unreadable };
                let help = "set `tokenizer.path` to a tokenizer.json or vocab.txt, or make one with `coordinator \
                            tokenizer train`; a vocab.json needs its merges.txt beside it";
                CorpusError::new(kind, name.as_str(), format!("the tokenizer cannot be read: {error}"), help)
            })?;
            // Of two files that belong together either may be one.
            refuse_pointer(ErrorKind::Tokenizer, &name, &contents)?;
            Ok(contents)
        };
        let contents = read(path)?;
        if !byte_level::is_vocabulary(&contents) {
            return Self::from_bytes(&config.path, &contents, config.lowercase);
        }
        let merges = read(&path.with_file_name("merges.txt"))?;
        let beside = path.with_file_name("tokenizer_config.json");
        let beside = if beside.exists() { Some(read(&beside)?) } else { None };
        let json = byte_level::to_json(&config.path, &contents, &merges, beside.as_deref())?;
        Self::from_bytes(&config.path, json.as_bytes(), config.lowercase)
    }

    /// From a file's contents: JSON, a model of SentencePiece, or else the lines of a `vocab.txt` (`lowercase` is for those
    /// only). `name` is for errors.
    pub fn from_bytes(name: &str, contents: &[u8], lowercase: bool) -> Result<Self, CorpusError> {
        let broken = |message: String| {
            CorpusError::new(
                ErrorKind::Tokenizer,
                name,
                message,
                "give a Hugging Face tokenizer.json, or a vocab.txt with one token a line",
            )
        };
        refuse_pointer(ErrorKind::Tokenizer, name, contents)?;
        let converted;
        let contents = if sentence_piece::is_model(contents) {
            converted =
                sentence_piece::to_json(name, contents, &std::array::from_fn::<_, 5, _>(SpecialIds::spellings))?;
            converted.as_bytes()
        } else {
            contents
        };
        if byte_level::is_vocabulary(contents) {
            return Err(broken("it is a vocab.json, which is of no use without its merges.txt".to_owned()));
        }
        let is_json = contents.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let inner = if is_json {
            let mut inner = tokenizers::Tokenizer::from_bytes(contents)
                .map_err(|error| broken(format!("no tokenizer.json: {error}")))?;
            // Lengths are ours to decide; a published file often carries its own padding and truncation.
            inner.with_padding(None);
            inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
            inner
        } else {
            let text = std::str::from_utf8(contents).map_err(|error| broken(format!("not UTF-8: {error}")))?;
            let mut lines = HashMap::new();
            for (id, token) in text.lines().map(str::trim_end).enumerate() {
                if let Some(first) = lines.insert(token, id) {
                    return Err(broken(format!("line {}: `{token}` stands in line {} already", id + 1, first + 1)));
                }
            }
            word_piece(name, text, lowercase)?
        };
        let json = inner.to_string(false).map_err(|error| broken(error.to_string()))?.into_bytes();
        Self::new(name, inner, json)
    }

    fn new(name: &str, inner: tokenizers::Tokenizer, json: Vec<u8>) -> Result<Self, CorpusError> {
        let special = SpecialIds::of(name, |token| inner.token_to_id(token))?;
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |highest| *highest as usize + 1);
        let mut continuation = vec![false; size];
        if let ModelWrapper::WordPiece(model) = inner.get_model() {
            for (token, id) in &vocabulary {
                continuation[*id as usize] = token.starts_with(&model.continuing_subword_prefix);
            }
        }
        let byte_level = byte_level::spaces_before_text(&inner);
        if byte_level.is_some() {
            let added = inner.get_added_vocabulary().get_vocab();
            for (token, id) in vocabulary.iter().filter(|(token, _)| !added.contains_key(*token)) {
                continuation[*id as usize] = !byte_level::begins_word(token);
            }
        }
        // As the tokenizer's own template has it: RoBERTa's puts two between the texts.
        let template = inner.encode_fast(("", ""), true).map_err(|error| not_encoded(&error))?;
        let separators = template.get_ids().iter().filter(|id| **id == special.separator).count();
        let splits_at_space = matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
            && inner.get_added_vocabulary().get_vocab().keys().all(|token| !token.contains(char::is_whitespace));
        Ok(Self {
            inner,
            json,
            size,
            special,
            continuation,
            separators: if separators == 3 { 2 } else { 1 },
            spaces_words: byte_level == Some(false),
            splits_at_space,
        })
    }

    /// One more than the highest id.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The ids with a role of their own.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Separators between the two texts of a pair: one, or two where the tokenizer's own template has two (RoBERTa).
    pub fn separators_between(&self) -> usize {
        self.separators
    }

    /// Whether the piece goes on with the word of the piece before it (`##ing`; for byte-level pieces all that do not begin
    /// with white space).
    pub fn is_continuation(&self, id: u32) -> bool {
        self.continuation.get(id as usize).copied().unwrap_or(false)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of some ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, CorpusError> {
        self.inner.decode(ids, true).map_err(|error| {
            CorpusError::new(ErrorKind::Tokenizer, "tokenizer", error.to_string(), "check the tokenizer's file")
        })
    }

    /// The ids of `text`, without special tokens around it. For much text use an [`Encoder`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CorpusError> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), CorpusError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| not_encoded(&error))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// An encoder for one thread's work.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder::new(self)
    }

    /// The tokenizer as a `tokenizer.json`, whatever it was opened from.
    pub fn bytes(&self) -> &[u8] {
        &self.json
    }

    /// blake3 of [`Tokenizer::bytes`].
    pub fn digest(&self) -> Digest {
        Digest::blake3(&self.json)
    }

    /// The tokens in order of their ids, as the lines of a `vocab.txt`.
    pub fn vocabulary_text(&self) -> String {
        let mut tokens: Vec<(String, u32)> = self.inner.get_vocab(true).into_iter().collect();
        tokens.sort_unstable_by_key(|(_, id)| *id);
        tokens.into_iter().flat_map(|(token, _)| [token, "\n".to_owned()]).collect()
    }

    /// `vocab.json` and `merges.txt`, where it is a byte-level BPE with RoBERTa's special tokens.
    pub fn byte_level_files(&self) -> Option<[(&'static str, Vec<u8>); 2]> {
        let is_robertas = self.token(self.special.classify).as_deref() == Some(OTHER_SPELLINGS[2]);
        if !is_robertas || byte_level::spaces_before_text(&self.inner).is_none() {
            return None;
        }
        byte_level::files(&self.json)
    }

    /// Writes `tokenizer.json` and `vocab.txt`, or `vocab.json` and `merges.txt`, into `folder`, which is made if need be.
    /// Each is whole or as before.
    pub fn write_folder(&self, folder: &Path) -> Result<(), CorpusError> {
        let failed = |path: &Path, error: std::io::Error| {
            CorpusError::new(
                ErrorKind::Io,
                path.display().to_string().as_str(),
                format!("cannot be written: {error}"),
                "name a folder that can be written to, on a disk with room",
            )
        };
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        let mut files = vec![("tokenizer.json", self.json.clone())];
        match self.byte_level_files() {
            Some(pair) => files.extend(pair),
            None => files.push(("vocab.txt", self.vocabulary_text().into_bytes())),
        }
        for (name, contents) in files {
            let path = folder.join(name);
            whole_file::write(&path, &contents).map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("size", &self.size).field("digest", &self.digest()).finish_non_exhaustive()
    }
}

impl SpecialIds {
    /// How the token of that role is spelled.
    fn spellings(role: usize) -> [&'static str; 2] {
        [SPECIAL[role], OTHER_SPELLINGS[role]]
    }

    fn of(name: &str, id: impl Fn(&str) -> Option<u32>) -> Result<Self, CorpusError> {
        let id = |token: &str| {
            let other = SPECIAL.iter().position(|special| *special == token).map(|role| OTHER_SPELLINGS[role]);
            id(token).or_else(|| other.and_then(&id))
        };
        let missing: Vec<&str> = SPECIAL.into_iter().filter(|token| id(token).is_none()).collect();
        let [Some(pad), Some(unknown), Some(classify), Some(separator), Some(mask)] = SPECIAL.map(&id) else {
            return Err(CorpusError::new(
                ErrorKind::Tokenizer,
                name,
                format!("the vocabulary lacks {}", missing.join(", ")),
                format!("BERT needs {}; make a vocabulary with `coordinator tokenizer train`", SPECIAL.join(" ")),
            ));
        };
        Ok(Self { pad, unknown, classify, separator, mask })
    }
}

/// BERT's own tokenizer around a vocabulary, one token a line.
fn word_piece(name: &str, vocabulary: &str, lowercase: bool) -> Result<tokenizers::Tokenizer, CorpusError> {
    let broken = |error: tokenizers::Error| {
        CorpusError::new(ErrorKind::Tokenizer, name, error.to_string(), "give a vocab.txt with one token a line")
    };
    let vocabulary = WordPiece::read_bytes(vocabulary.as_bytes()).map_err(broken)?;
    let special = SpecialIds::of(name, |token| vocabulary.get(token).copied())?;
    let model = WordPiece::builder().vocab(vocabulary).build().map_err(broken)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase))).map_err(broken)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_post_processor(Some(BertProcessing::new(
        ("[SEP]".to_owned(), special.separator),
        ("[CLS]".to_owned(), special.classify),
    )));
    inner.with_decoder(Some(WordPieceDecoder::default()));
    inner.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true))).map_err(broken)?;
    Ok(inner)
}

/// Refuses a vocabulary that the model has no rows for, and for `roberta` one whose `<pad>` is not what positions are
/// counted from.
pub fn check_vocabulary(tokenizer: &Tokenizer, shape: &ModelShape) -> Result<(), CorpusError> {
    let pad = tokenizer.special().pad;
    if shape.architecture == Architecture::Roberta && i64::from(pad) != PADDING_ID {
        return Err(CorpusError::new(
            ErrorKind::Tokenizer,
            "tokenizer.path",
            format!("`roberta` counts positions from the padding token, whose id must be {PADDING_ID} and is {pad}"),
            "make a vocabulary with `coordinator tokenizer train --model byte-level-bpe`, or use the model's own",
        ));
    }
    if tokenizer.size() as i64 <= shape.vocabulary {
        return Ok(());
    }
    Err(CorpusError::new(
        ErrorKind::Tokenizer,
        "tokenizer.path",
        format!(
            "the vocabulary has {} tokens, but the model has only {} rows for them",
            tokenizer.size(),
            shape.vocabulary
        ),
        "leave `model.vocabulary` out, raise it, or use the tokenizer that the model was trained with",
    ))
}

/// A text that the tokenizer's model cannot express.
fn not_encoded(error: &tokenizers::Error) -> CorpusError {
    CorpusError::new(
        ErrorKind::Tokenizer,
        "tokenizer",
        format!("cannot encode: {error}"),
        "check that the tokenizer's model has an unknown token",
    )
}
