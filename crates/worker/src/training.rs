//! The trainer process: everything that touches libtorch, so that a crash of it takes nothing else along.
//!
//! Three threads of ours: the main thread trains; one hears the agent, and lets an abort or a request take effect at
//! once; one stores checkpoints. A small runtime carries the calls to the coordinator.

mod assignment;
mod current;
mod host;
mod remote;
mod rendezvous;
mod reporter;
mod units;
mod uploads;

use crate::connect::{Coordinator, TOKEN_VARIABLE, Token};
use crate::link;
use assignment::Workplace;
use current::{Current, Key};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use proto::v1::coordinator_message::Kind as FromCoordinator;
use proto::v1::worker_message::Kind as FromWorker;
use proto::v1::{Assign, CoordinatorMessage, TrainerReady};
use remote::Remote;
use reporter::Reporter;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use trainer::Requests;
use uploads::Uploads;

/// Begins the one line that tells of a panic; the agent looks for it.
pub const PANIC_MARK: &str = "trainer panicked at";

/// What the agent tells its trainer process on the command line; the token comes in the environment.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainerArguments {
    /// The coordinator.
    #[arg(long)]
    pub coordinator: String,
    /// The worker's name.
    #[arg(long)]
    pub name: String,
    /// `cpu` or `cuda:N`.
    #[arg(long)]
    pub device: crate::device::Choice,
    /// Compute threads.
    #[arg(long)]
    pub threads: u32,
    /// Where the other workers reach this one.
    #[arg(long)]
    pub address: String,
}

/// Jobs that wait for the main thread. The coordinator gives a member a new one when it has heard of the last, or has
/// waited for that in vain; a trainer that is this far behind is stuck, and a new process is its cure.
const JOBS_MAX: usize = 64;

/// What the reader thread hands to the main thread.
enum Job {
    Assign(Assign),
    Release,
    End,
}

/// Runs the trainer process until its agent closes the socket.
pub fn run(arguments: TrainerArguments) -> anyhow::Result<()> {
    // Before there is another thread.
    leave_signals_to_the_agent()?;
    report_panics();
    // The agent may die in a way that lets it do nothing more.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // `top` would call it `exe`, after the link that the agent starts it by.
    nix::sys::prctl::set_name(c"worker-trainer")?;
    // Each other member of a run is a connection. Where it cannot be raised, a large group says what it lacks.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let device = arguments.device.decide().open()?;
    if device.is_cuda() {
        trainer::use_deterministic_algorithms()?;
    }
    trainer::keep_freed_memory();
    trainer::set_threads(arguments.threads);
    tch::set_num_interop_threads(1);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = std::env::var(TOKEN_VARIABLE).ok().map(|text| Token::new(&text, TOKEN_VARIABLE)).transpose()?;
    let coordinator = {
        let _within = runtime.enter();
        Coordinator::new(&arguments.coordinator, token.as_ref())?
    };
    let remote = Remote { coordinator, runtime: runtime.handle().clone() };
    let current = Arc::new(Current::default());
    let (jobs, received) = sync_channel(JOBS_MAX);
    let reader = stream.try_clone()?;
    let for_reader = current.clone();
    std::thread::Builder::new().name("agent".to_owned()).spawn(move || hear(reader, &for_reader, &jobs))?;
    let reporter = Reporter::start(stream)?;
    let uploads = Uploads::start(remote.clone(), reporter.clone(), arguments.name.clone())?;
    let mut workplace = Workplace {
        worker: arguments.name,
        address: arguments.address,
        device,
        remote,
        current,
        reporter: reporter.clone(),
        uploads,
        held: None,
    };
    reporter.send(FromWorker::TrainerReady(TrainerReady {}));
    while let Ok(job) = received.recv() {
        match job {
            Job::Assign(assign) => workplace.work(assign),
            Job::Release => workplace.forget(),
            Job::End => break,
        }
    }
    workplace.forget();
    Ok(())
}

/// Ctrl-C, a service manager and a batch system signal every process of the worker. What that means is for the agent to
/// decide, so here they are blocked, in this thread and in all that it starts.
///
/// A handler that does nothing would not do: matrix products run in code that is generated at run time (oneDNN's), and some
/// of it takes the stack pointer for a pointer into its buffers. What the system writes there before it calls a handler
/// would destroy what lies beside the buffer in the heap.
fn leave_signals_to_the_agent() -> nix::Result<()> {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1]).thread_block()
}

/// Hears the agent until it closes the socket.
fn hear(mut stream: UnixStream, current: &Current, jobs: &SyncSender<Job>) {
    loop {
        let message: CoordinatorMessage = match link::read_blocking(&mut stream) {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "the agent's messages cannot be read");
                break;
            }
        };
        let job = match message.kind {
            Some(FromCoordinator::Assign(assign)) => {
                current.assigned(Key { run: assign.run.clone(), generation: assign.generation });
                Job::Assign(assign)
            }
            Some(FromCoordinator::Abort(abort)) => {
                current.aborted(&Key { run: abort.run, generation: abort.generation });
                continue;
            }
            Some(FromCoordinator::Request(request)) => {
                let wanted = Requests { checkpoint: request.checkpoint, pause: request.pause };
                current.requested(&Key { run: request.run, generation: request.generation }, wanted);
                continue;
            }
            Some(FromCoordinator::Release(_)) => {
                current.released();
                Job::Release
            }
            // The agent's own business.
            Some(
                FromCoordinator::Welcome(_)
                | FromCoordinator::Goodbye(_)
                | FromCoordinator::Drain(_)
                | FromCoordinator::Committed(_),
            )
            | None => continue,
        };
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => return,
            Err(TrySendError::Full(_)) => {
                tracing::error!(jobs = JOBS_MAX, "the training thread takes no more assignments; ending the process");
                std::process::exit(1);
            }
        }
    }
    current.released();
    let _ = jobs.send(Job::End);
}

/// One line with place and message, whichever thread it is; libtorch's own messages go on for pages after the first.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let mut lines = message.lines();
        let first = lines.next().unwrap_or_default();
        let mut out = std::io::stderr().lock();
        for line in lines.take(30) {
            let _ = writeln!(out, "  {line}");
        }
        let _ = writeln!(out, "{PANIC_MARK} {place}: {first}");
    }));
}
