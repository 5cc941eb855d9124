//! One state for all members of a new generation.
//!
//! Every member says how many steps the state that it holds has done. If nobody holds any, rank 0 reads the checkpoint
//! or makes the initial model. Otherwise the lowest rank with the most steps is the source, and the others take over its
//! state. Joining, restarting, resuming and starting are this one path.

use crate::TrainError;
use crate::capture::StateHeader;
use crate::host::{Host, Membership};
use crate::initial::Recipe;
use crate::state::State;
use crate::tensors::{pack_bytes, to_i64, unpack_bytes};
use c10d::{GroupError, ProcessGroup};
use tch::Tensor;

/// Leaves in `held` the state that all members agree on.
pub(crate) fn synchronise(
    held: &mut Option<State>,
    recipe: &Recipe<'_>,
    membership: &Membership,
    group: &ProcessGroup,
    host: &dyn Host,
) -> Result<(), TrainError> {
    // A rewound run must not be moved on by what someone kept from before.
    held.take_if(|state| state.header.attempt != membership.attempt);
    let own = held.as_ref().map_or(-1, |state| state.header.step.0 as i64);
    let step = held.as_ref().map(|state| state.header.step);
    let failed = |error: GroupError| TrainError::collective(step, error);
    let steps = group.all_gather_i64(own).map_err(failed)?;
    let most = steps.iter().copied().max().unwrap_or(-1);
    let source = steps.iter().position(|&steps| steps == most).unwrap_or(0) as u32;
    let own_rank = membership.rank.0;
    if most < 0 && own_rank == source {
        *held = Some(recipe.make(host)?);
    }
    if most >= 0 && steps.iter().all(|&steps| steps == most) {
        return Ok(());
    }
    tracing::info!(
        run = %membership.run, generation = membership.generation.0, rank = own_rank, source, step = most,
        "state is broadcast"
    );
    let header = share_header(held.as_ref().filter(|_| own_rank == source), recipe, source, group).map_err(failed)?;
    let keeps = own_rank == source || (most >= 0 && own == most);
    let mut state = if keeps {
        held.take().ok_or_else(|| TrainError::fatal("this member said that it holds state, and holds none"))?
    } else {
        // Half a state must never count as one: from here to the end of the broadcast nothing is held.
        *held = None;
        let header: StateHeader = serde_json::from_slice(&header)
            .map_err(|error| TrainError::fatal(format!("the source's state is not understood: {error}")))?;
        if header.labels != recipe.labels || header.cursors.len() != recipe.config.batch.slots as usize {
            return Err(TrainError::fatal("this worker reads other labels or slots than the source of the state"));
        }
        recipe.state(header)?
    };
    let received = receive(&mut state, source, group, host);
    // The source writes nothing, and who has done as many steps is sent the very bytes it holds.
    if received.is_ok() || keeps {
        *held = Some(state);
    }
    received.map_err(|error| TrainError::collective(held.as_ref().map(|state| state.header.step), error))
}

/// Sends the source's header to all.
fn share_header(
    source_state: Option<&State>,
    recipe: &Recipe<'_>,
    source: u32,
    group: &ProcessGroup,
) -> Result<Vec<u8>, GroupError> {
    let own = source_state
        .map(|state| serde_json::to_vec(&state.header).expect("a header is always expressible as JSON"))
        .unwrap_or_default();
    let length = Tensor::from_slice(&[own.len() as i64]).to_device(recipe.device);
    group.broadcast(&length, source)?;
    let length = to_i64(&length)[0] as usize;
    let mut bytes = own;
    bytes.resize(length, 0);
    let packed = pack_bytes(&bytes, recipe.device);
    group.broadcast(&packed, source)?;
    Ok(unpack_bytes(&packed, length))
}

fn receive(state: &mut State, source: u32, group: &ProcessGroup, host: &dyn Host) -> Result<(), GroupError> {
    tch::no_grad(|| {
        state.tensors().iter().try_for_each(|tensor| {
            host.moved();
            group.broadcast(tensor, source)
        })
    })
}
