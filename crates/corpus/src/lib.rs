//! Files to samples: Parquet (and CSV, JSON lines, word/tag) → units → documents → tokens → masked batches, in an order
//! that depends on nothing but the config and the files.
//!
//! The [`Plan`] says which unit a slot works on when; a [`UnitSource`] reads a unit's rows; the [`Loader`] prepares
//! batches in background threads. This room must not know of tensors, of gRPC, or of how many workers there are.
//! Everything here blocks: an async caller goes through its blocking pool.

mod answers;
mod batch;
mod choices;
mod cloze;
mod corpus;
mod counter;
mod documents;
mod error;
mod import;
mod loader;
mod out_folder;
mod plan;
mod predict;
mod prepare;
mod random;
mod rows;
mod samples;
mod source;
mod texts;
mod tokenizer;
mod whole_file;
mod words;

pub use answers::{Example, Window};
pub use batch::{Batch, IGNORED, Labels, SlotStep};
pub use choices::check_choices;
pub use cloze::Cloze;
pub use corpus::Corpus;
pub use counter::UnitCounter;
pub use error::{CorpusError, ErrorKind, Place, Spot};
pub use import::{ImportOptions, ImportReport, import_text};
pub use loader::Loader;
pub use out_folder::{CARD, CARD_TAGS, Filling, TOKENIZER_FILES, is_own_card};
pub use plan::{Dealt, Plan, Unit};
pub use predict::{choice_batch, cloze_batch, question_batches, separate_batch, text_batch, word_batch};
pub use prepare::Counts;
pub use samples::masking::check_segmenter;
pub use source::{Columns, CorpusFile, FileSource, SquadQuestion, UnitSource, refuse_pointer, scalar, squad_questions};
pub use texts::for_each_text;
pub use tokenizer::{
    ByteLevelOptions, Encoder, SpecialIds, Tokenizer, WordPieceOptions, check_vocabulary, train_byte_level,
    train_word_piece,
};
pub use words::WordSplitter;
