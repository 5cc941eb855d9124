//! Packed blocks for masked words alone: every position holds a token.
//!
//! The documents of a unit are put behind one another with `[SEP]` between them and cut into blocks
//! `[CLS] … [SEP]` of the full sequence length. The last block of a unit would be short; instead it reaches back into
//! the block before it, so that no token is lost, none is padding, and every batch can do without a mask. Only a unit
//! that is shorter than one block gives a short one. While rows are short (`batch.short_length`) a block is cut into several
//! when a batch is made of it; the block stays the sample.

use super::{MaskKey, Samples, Targets};
use crate::SpecialIds;
use crate::documents::Documents;

pub(crate) fn build(documents: &Documents, sequence_length: usize, special: SpecialIds, key: MaskKey) -> Samples {
    let mut samples = Samples::new(Targets::Masked { next_sentence: None }, key);
    let mut stream = Vec::new();
    for document in 0..documents.count() {
        if document > 0 {
            stream.push(special.separator);
        }
        stream.extend_from_slice(documents.document(document));
    }
    if stream.is_empty() {
        return samples;
    }
    let room = sequence_length - 2;
    let blocks = stream.len().div_ceil(room);
    samples.tokens.reserve(blocks * sequence_length);
    for block in 0..blocks {
        let start = (block * room).min(stream.len().saturating_sub(room));
        samples.tokens.push(special.classify);
        samples.tokens.extend_from_slice(&stream[start..stream.len().min(start + room)]);
        samples.tokens.push(special.separator);
        samples.ends.push(samples.tokens.len());
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPECIAL: SpecialIds = SpecialIds { pad: 0, unknown: 1, classify: 2, separator: 3, mask: 4 };

    proptest! {
        #[test]
        fn every_token_is_in_a_full_block(lengths in proptest::collection::vec(1usize..60, 1..20), length in 8usize..40) {
            let mut documents = Documents::default();
            let mut next = 10;
            let mut all = Vec::new();
            for count in lengths {
                let tokens: Vec<u32> = (next..next + count as u32).collect();
                next += count as u32;
                all.extend(tokens.clone());
                documents.add_sentences(&[tokens]);
            }
            let samples = build(&documents, length, SPECIAL, MaskKey::default());
            let mut seen = std::collections::BTreeSet::new();
            let mut start = 0;
            for end in &samples.ends {
                let block = &samples.tokens[start..*end];
                prop_assert_eq!((block[0], block[block.len() - 1]), (2, 3));
                prop_assert!(block.len() == length || samples.count() == 1);
                seen.extend(block.iter().copied().filter(|id| *id >= 10));
                start = *end;
            }
            prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
        }
    }
}
