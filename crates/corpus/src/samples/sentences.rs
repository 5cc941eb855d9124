//! RoBERTa's ways to fill a sample for masked words alone (Liu et al. 2019, section 4.2): as many whole sentences in a row
//! as fit. Across documents (FULL-SENTENCES) there is a separator between two of them; or a document's end ends the
//! sample (DOC-SENTENCES). A sentence that is longer than a sample is cut into samples of its own.

use super::{MaskKey, Samples, Targets};
use crate::SpecialIds;
use crate::documents::Documents;

pub(crate) fn build(
    documents: &Documents,
    sequence_length: usize,
    across_documents: bool,
    special: SpecialIds,
    key: MaskKey,
) -> Samples {
    let mut packer = Packer {
        samples: Samples::new(Targets::Masked { next_sentence: None }, key),
        text: Vec::new(),
        room: sequence_length - 2,
        special,
    };
    for document in 0..documents.count() {
        if !across_documents {
            packer.end_sample();
        }
        for sentence in 0..documents.sentence_count(document) {
            packer.add(documents.sentence(document, sentence), sentence == 0);
        }
    }
    packer.end_sample();
    packer.samples
}

struct Packer {
    samples: Samples,
    /// Of the sample under way, without what goes around it.
    text: Vec<u32>,
    room: usize,
    special: SpecialIds,
}

impl Packer {
    fn add(&mut self, sentence: &[u32], begins_document: bool) {
        let separator = usize::from(begins_document && !self.text.is_empty());
        if self.text.len() + separator + sentence.len() > self.room {
            self.end_sample();
        } else if separator == 1 {
            self.text.push(self.special.separator);
        }
        for part in sentence.chunks(self.room) {
            if self.text.len() + part.len() > self.room {
                self.end_sample();
            }
            self.text.extend_from_slice(part);
        }
    }

    fn end_sample(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let tokens = &mut self.samples.tokens;
        tokens.push(self.special.classify);
        tokens.append(&mut self.text);
        tokens.push(self.special.separator);
        self.samples.ends.push(tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPECIAL: SpecialIds = SpecialIds { pad: 0, unknown: 1, classify: 2, separator: 3, mask: 4 };

    fn documents(lengths: &[Vec<usize>]) -> Documents {
        let mut documents = Documents::default();
        let mut next = 10;
        for sentences in lengths {
            let sentences = sentences.iter().map(|length| {
                let sentence: Vec<u32> = (next..next + *length as u32).collect();
                next += *length as u32;
                sentence
            });
            documents.add_sentences(&sentences.collect::<Vec<_>>());
        }
        documents
    }

    fn samples(lengths: &[Vec<usize>], sequence_length: usize, across: bool) -> Vec<Vec<u32>> {
        let samples = build(&documents(lengths), sequence_length, across, SPECIAL, MaskKey::default());
        (0..samples.count()).map(|sample| samples.tokens[samples.range(sample)].to_vec()).collect()
    }

    #[test]
    fn sentences_stay_whole_and_documents_apart() {
        let lengths = [vec![2, 3], vec![1, 1], vec![4]];
        assert_eq!(
            samples(&lengths, 10, true),
            [vec![2, 10, 11, 12, 13, 14, 3, 15, 16, 3], vec![2, 17, 18, 19, 20, 3]]
        );
        assert_eq!(
            samples(&lengths, 10, false),
            [vec![2, 10, 11, 12, 13, 14, 3], vec![2, 15, 16, 3], vec![2, 17, 18, 19, 20, 3]]
        );
        // No room for the separator: nothing is left of the document's end but the sample's.
        assert_eq!(samples(&[vec![4], vec![2]], 8, true), [vec![2, 10, 11, 12, 13, 3], vec![2, 14, 15, 3]]);
        assert_eq!(samples(&[vec![7]], 5, true), [vec![2, 10, 11, 12, 3], vec![2, 13, 14, 15, 3], vec![2, 16, 3]]);
    }

    proptest! {
        #[test]
        fn every_token_is_in_one_sample(
            lengths in proptest::collection::vec(proptest::collection::vec(1usize..20, 1..6), 1..10),
            length in 8usize..40,
            across: bool,
        ) {
            let samples = samples(&lengths, length, across);
            prop_assert!(samples.iter().all(|sample| (3..=length).contains(&sample.len())));
            prop_assert!(samples.iter().all(|sample| sample[0] == 2 && sample[sample.len() - 1] == 3));
            let text: Vec<u32> = samples.concat().into_iter().filter(|id| *id >= 10).collect();
            let all = lengths.iter().flatten().sum::<usize>() as u32;
            prop_assert_eq!(text, (10..10 + all).collect::<Vec<_>>());
            if !across {
                let inner = samples.iter().flat_map(|sample| &sample[1..sample.len() - 1]);
                prop_assert!(inner.into_iter().all(|id| *id >= 10));
            }
        }
    }
}
