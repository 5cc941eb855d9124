//! Word2Vec: one vector for each word, whatever stands around it (Mikolov et al. 2013, arXiv 1310.4546).
//!
//! Skip-gram with negative sampling and subsampling of frequent words, as in the authors' `word2vec.c`, in one thread and
//! from one seed, so that the same words give the same vectors. This room knows words, not files, tokenizers or tensors.

mod corpus;
mod text_format;
mod train;
mod vectors;

pub use corpus::Corpus;
pub use text_format::FormatError;
pub use train::{Options, train};
pub use vectors::Vectors;
