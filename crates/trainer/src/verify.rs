//! Whether all members still hold the same bits. A flipped one in some worker's memory reaches the others only through
//! the gradients it computes, so they agree among themselves and outvote it; what it computed until then stays in the run.

use crate::TrainError;
use crate::host::{Host, Phase};
use crate::state::State;
use c10d::ProcessGroup;
use model::safetensors_io;
use std::collections::BTreeMap;

/// Compares the members' parameters and moments. The one that differs from the majority gives its state up; without a
/// majority nobody knows whose state is right. An error of the collective is one of `state`'s step.
pub(crate) fn compare(state: &State, group: &ProcessGroup, host: &dyn Host) -> Result<(), TrainError> {
    if group.world() == 1 {
        return Ok(());
    }
    let step = state.header.step;
    let digest = safetensors_io::digest(&state.tensors()).map_err(|error| TrainError::fatal(error.to_string()))?.0;
    let own = i64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|index| digest[index]));
    host.phase(Phase::Reduce);
    let digests = group.all_gather_i64(own).map_err(|error| TrainError::collective(Some(step), error))?;
    match majority(&digests) {
        Some(right) if right == own => Ok(()),
        Some(_) => Err(TrainError::Corrupted {
            message: format!(
                "the parameters or moments of rank {} after step {step} are not those of the other workers: memory of \
                 this machine, or its arithmetic, is not to be trusted",
                group.rank()
            ),
        }),
        None => Err(TrainError::Diverged {
            step,
            reason: format!(
                "the workers' parameters or moments differ after step {step}, and no majority tells whose are right"
            ),
        }),
    }
}

/// The value that more than half of the members have.
fn majority(values: &[i64]) -> Option<i64> {
    let mut counts = BTreeMap::new();
    for &value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    counts.into_iter().find(|(_, count)| 2 * count > values.len()).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_decide() {
        assert_eq!(majority(&[7]), Some(7));
        assert_eq!(majority(&[7, 7, 1]), Some(7));
        assert_eq!(majority(&[7, 1]), None);
        assert_eq!(majority(&[7, 1, 7, 1]), None);
        assert_eq!(majority(&[1, 2, 3]), None);
    }
}
