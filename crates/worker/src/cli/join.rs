//! `worker join`: from arguments and signals to an agent.

use super::{JoinArguments, Problem};
use crate::agent::{self, JoinConfig, Program, Wish};
use crate::connect::{Coordinator, TOKEN_VARIABLE};
use proto::v1::Register;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use types::WorkerId;

/// From its start until a trainer process is ready it loads libtorch, from a slow network disk at worst.
const READY_PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(arguments: JoinArguments) -> Result<ExitCode, Problem> {
    // One thread: the kernel ends a trainer process together with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failure(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let (config, wish) = (configure(arguments).await?, listen_for_signals()?);
        agent::run(config, wish).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn configure(arguments: JoinArguments) -> Result<JoinConfig, Problem> {
    let JoinArguments { coordinator, device, threads, name, token_file, address, patience } = arguments;
    let token = super::token(token_file.as_ref())?;
    let coordinator = Coordinator::new(&coordinator, token.as_ref())?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let threads = threads.unwrap_or(cores);
    let device = device.decide();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let pid = std::process::id();
    let name = name.unwrap_or_else(|| default_name(&host, pid));
    let address = match address {
        Some(address) => address.to_string(),
        None => coordinator.local_address().await.map_err(|error| {
            Problem::failure(format!("the host of {} cannot be found: {error}", coordinator.address()))
        })?,
    };
    let register = Register {
        worker: name.to_string(),
        host,
        pid,
        device: device.to_string(),
        threads,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        holding: None,
        address: address.clone(),
        starting: true,
    };
    // This very program, also after the file on disk was replaced: an agent and a trainer of two versions do not mix.
    let path = PathBuf::from("/proc/self/exe");
    let option = |name: &str, value: String| [OsString::from(format!("--{name}")), OsString::from(value)];
    let mut arguments = vec![OsString::from("trainer")];
    arguments.extend(option("coordinator", coordinator.address().to_owned()));
    arguments.extend(option("name", name.to_string()));
    arguments.extend(option("device", device.to_string()));
    arguments.extend(option("threads", threads.to_string()));
    arguments.extend(option("address", address));
    let mut variables = of_openmp(threads, |name| std::env::var_os(name).is_some());
    if let Some(token) = &token {
        variables.push((TOKEN_VARIABLE.into(), token.secret().into()));
    }
    let program = Program { path, arguments, variables, ready_patience: READY_PATIENCE };
    Ok(JoinConfig { coordinator, register, program, patience: Duration::from_secs(patience) })
}

/// How a trainer's OpenMP threads run, for its environment. `is_set` tells what the user has said of waiting, which stays.
///
/// Between two operations a thread looks for the next so many times and then sleeps. With none, each of a step's thousands of
/// operations waits for a thread to be woken (a fifth of the time of one worker with two threads); with libgomp's own 300,000,
/// workers that have more threads together than the machine has cores take the cores from each other.
fn of_openmp(threads: u32, is_set: impl Fn(&str) -> bool) -> Vec<(OsString, OsString)> {
    const LOOKS: &str = "3000";
    let mut variables: Vec<(OsString, OsString)> =
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name.into(), threads.to_string().into())).into();
    if !is_set("GOMP_SPINCOUNT") && !is_set("OMP_WAIT_POLICY") {
        variables.push(("GOMP_SPINCOUNT".into(), LOOKS.into()));
    }
    variables
}

/// Host name and process number, of characters that an identifier may have.
fn default_name(host: &str, pid: u32) -> WorkerId {
    let plain: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let plain = &plain[..plain.len().min(48)];
    let name = if plain.is_empty() { format!("worker-{pid}") } else { format!("{plain}-{pid}") };
    name.parse().expect("letters, digits and dashes, starting with a letter or digit")
}

/// SIGTERM, SIGINT and SIGUSR1 (a batch system's warning): leave. The second SIGTERM or SIGINT: end at once. The warning
/// does not count, because SIGTERM follows it as a rule.
fn listen_for_signals() -> Result<watch::Receiver<Wish>, Problem> {
    let (sender, receiver) = watch::channel(Wish::Work);
    let insisted = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::user_defined1()] {
        let mut signals = signal(kind).map_err(|error| Problem::failure(format!("no signal handler: {error}")))?;
        let (sender, insisted) = (sender.clone(), insisted.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let insists = kind != SignalKind::user_defined1() && insisted.swap(true, Ordering::Relaxed);
                sender.send_if_modified(|wish| {
                    let before = *wish;
                    *wish = if insists { Wish::Quit } else { before.max(Wish::Leave) };
                    *wish != before
                });
            }
        });
    }
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_makes_a_worker_name() {
        assert_eq!(default_name("node7.cluster", 12).as_str(), "node7-cluster-12");
        assert_eq!(default_name("日本", 12).as_str(), "worker-12");
        assert!(default_name(&"x".repeat(200), u32::MAX).as_str().len() <= 64);
    }

    #[test]
    fn what_the_user_says_of_waiting_stays() {
        let names = |set: &'static str| -> Vec<OsString> {
            of_openmp(2, |name| name == set).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(""), ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"]);
        for set in ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"] {
            assert_eq!(names(set), ["OMP_NUM_THREADS", "MKL_NUM_THREADS"], "{set}");
        }
    }
}
