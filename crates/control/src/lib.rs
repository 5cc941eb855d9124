//! The coordinator's decisions, as a pure state machine: which worker does what, which step counts, when a run has
//! ended.
//!
//! The shell tells it what happened ([`Control::handle`]) and what time it is, calls [`Control::handle_timeout`] when
//! [`Control::poll_timeout`] is due, and carries out, in order, what [`Control::poll_effect`] says. Nothing here may
//! know a runtime, a network, a clock, a random source or a file, or depend on the order of a hash map: so a simulator
//! can replay any history from a seed.

mod balance;
mod commit;
mod control;
mod divergence;
mod effect;
mod ending;
mod event;
mod failure;
mod growth;
mod membership;
mod planted;
mod queue;
mod record;
mod refusal;
mod run;
mod settings;
mod slots;
mod time;
mod watch;
mod worker;

pub use control::Control;
pub use effect::{Assignment, Directive, Effect};
pub use event::{Divergence, Event, Holding, Phase, WorkerFacts};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use record::{CheckpointAt, Member, Record, RunRecord, RunSpec, RunStatus};
pub use refusal::Refusal;
pub use settings::Settings;
pub use time::Millis;
pub use worker::Worker;
