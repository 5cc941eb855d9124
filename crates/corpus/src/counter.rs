//! How many samples a unit makes: for whoever checks what workers said of it.

use crate::plan::Dealt;
use crate::prepare::{Counts, Part, Preparer};
use crate::{Corpus, CorpusError, Tokenizer};
use config::CheckedConfig;
use std::sync::Arc;

/// Makes units again, exactly as a [`crate::Loader`] does, and counts their samples.
pub struct UnitCounter {
    preparer: Preparer,
}

impl UnitCounter {
    /// For a run with this config.
    pub fn new(corpus: Arc<Corpus>, tokenizer: Arc<Tokenizer>, config: &CheckedConfig) -> Self {
        Self { preparer: Preparer::new(corpus, tokenizer, config, Arc::new(Counts::default())) }
    }

    /// How many samples a training unit makes in its epoch. Reads and tokenises it.
    pub fn count(&self, dealt: Dealt) -> Result<u64, CorpusError> {
        let part = Part::Train { epoch: dealt.epoch, unit: dealt.unit };
        let samples = self.preparer.prepare(part, &mut self.preparer.encoder(), &|| false)?;
        Ok(samples.expect("nothing cancels it").count() as u64)
    }
}
