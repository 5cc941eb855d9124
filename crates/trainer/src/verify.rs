//! Whether all members still hold the same bits. A flipped one in some worker's memory reaches the others only through
//! the gradients it computes, so they agree among themselves and outvote it; what it computed until then stays in the run.

use crate::capture::StateHeader;
use crate::host::{Host, Phase};
use crate::state::State;
use crate::{Divergence, TrainError};
use c10d::ProcessGroup;
use model::safetensors_io;
use std::collections::BTreeMap;
use types::Digest;

/// Compares the members' parameters, moments, averages and places in the data. The one that differs from the majority
/// gives its state up; without a majority nobody knows whose state is right. An error of the collective is one of
/// `state`'s step.
pub(crate) fn compare(state: &State, group: &ProcessGroup, host: &dyn Host) -> Result<(), TrainError> {
    if group.world() == 1 {
        return Ok(());
    }
    let step = state.header.step;
    let tensors = safetensors_io::digest(&state.tensors()).map_err(|error| TrainError::fatal(error.to_string()))?;
    let own = fingerprint(tensors, &state.header);
    host.phase(Phase::Reduce);
    let digests = group.all_gather_i64(own).map_err(|error| TrainError::collective(Some(step), error))?;
    match majority(&digests) {
        Some(right) if right == own => Ok(()),
        Some(_) => Err(TrainError::Corrupted {
            message: format!(
                "the state of rank {} after step {step} is not that of the other workers: memory of \
                 this machine, or its arithmetic, is not to be trusted",
                group.rank()
            ),
        }),
        None => Err(TrainError::Diverged {
            step,
            kind: Divergence::Replicas,
            reason: format!("the workers' states differ after step {step}, and no majority tells whose are right"),
        }),
    }
}

/// Of all that a checkpoint holds and that changes from step to step, but for how evaluations have gone: after a failure in
/// the middle of one, some members have it and others not yet.
fn fingerprint(tensors: Digest, header: &StateHeader) -> i64 {
    let StateHeader { step, attempt, updates, skipped_in_a_row, cursors, samples_digest, .. } = header;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tensors.0).update(&samples_digest.0);
    hasher.update(&attempt.0.to_le_bytes()).update(&skipped_in_a_row.to_le_bytes());
    for number in [step.0, *updates].into_iter().chain(cursors.iter().flat_map(|cursor| [cursor.turn, cursor.sample])) {
        hasher.update(&number.to_le_bytes());
    }
    first_bytes(hasher.finalize().as_bytes())
}

/// Of a hash what one number holds.
pub(crate) fn first_bytes(hash: &[u8; 32]) -> i64 {
    i64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|index| hash[index]))
}

/// The value that more than half of the members have.
pub(crate) fn majority(values: &[i64]) -> Option<i64> {
    let mut counts = BTreeMap::new();
    for &value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    counts.into_iter().find(|(_, count)| 2 * count > values.len()).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Attempt, Cursor, Step};

    #[test]
    fn everything_that_a_checkpoint_holds_is_compared() {
        let header = StateHeader {
            format: 1,
            step: Step(7),
            attempt: Attempt(0),
            updates: 6,
            skipped_in_a_row: 1,
            cursors: vec![Cursor { turn: 1, sample: 2 }, Cursor { turn: 3, sample: 4 }],
            samples_digest: Digest([1; 32]),
            config_digest: Digest([2; 32]),
            optimizer: config::OptimizerKind::Adamw,
            averaged: false,
            evaluated: None,
            measured: None,
            labels: Vec::new(),
            shape: config::ModelConfig::default().shape(100, 16),
        };
        let tensors = Digest([3; 32]);
        let own = fingerprint(tensors, &header);
        assert_eq!(own, fingerprint(tensors, &header.clone()));
        assert_ne!(own, fingerprint(Digest([4; 32]), &header));
        let changes: [fn(&mut StateHeader); 6] = [
            |header| header.step = Step(8),
            |header| header.updates = 7,
            |header| header.skipped_in_a_row = 0,
            |header| header.cursors[1].sample = 5,
            |header| header.cursors[0].turn = 2,
            |header| header.samples_digest = Digest([9; 32]),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = header.clone();
            change(&mut other);
            assert_ne!(own, fingerprint(tensors, &other), "change {index}");
        }
    }

    #[test]
    fn more_than_half_decide() {
        assert_eq!(majority(&[7]), Some(7));
        assert_eq!(majority(&[7, 7, 1]), Some(7));
        assert_eq!(majority(&[7, 1]), None);
        assert_eq!(majority(&[7, 1, 7, 1]), None);
        assert_eq!(majority(&[1, 2, 3]), None);
    }
}
