//! `worker doctor`: what this machine has, and what is missing, each with what to do about it.

mod host;

use crate::cli::Problem;
use crate::connect::{COORDINATOR_VARIABLE, Coordinator};
use clap::Args;
use proto::v1::ListRunsRequest;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// `worker doctor`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker doctor
  worker doctor --coordinator head:7117 --json

Exit code 1 if something is missing without which a worker cannot train.

If every command ends with `error while loading shared libraries: libtorch_cpu.so` (exit code 127), the libtorch that this
program was built with was moved or deleted, or is not on this host. Run `cargo xtask setup` and build again, or set
LD_LIBRARY_PATH to the `torch/lib` folder of the same version.")]
pub struct DoctorArguments {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Check that this coordinator can be reached and accepts the token.
    #[arg(long, value_name = "HOST:PORT", env = COORDINATOR_VARIABLE)]
    coordinator: Option<String>,
    /// A file that holds the coordinator's token. Default: TRIREME_TOKEN, else `token` in the default data folder.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Ok,
    /// Something to know, not needed for training on this machine as it is.
    Note,
    /// A worker cannot train, or cannot reach its coordinator.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    outcome: Outcome,
    /// What was found.
    found: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, found: found.into(), help: None }
    }

    fn note(name: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Note, found: found.into(), help: Some(help.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Missing, found: found.into(), help: Some(help.into()) }
    }
}

/// What `--json` prints; the names stay.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    ok: bool,
    checks: Vec<Check>,
}

/// Runs it.
pub(crate) fn run(arguments: &DoctorArguments) -> Result<ExitCode, Problem> {
    let mut checks = vec![libtorch(), gloo(), nccl(), cuda()];
    checks.extend(host::checks());
    if let Some(address) = &arguments.coordinator {
        checks.push(coordinator(address, arguments.token_file.as_ref()));
    }
    let ok = checks.iter().all(|check| check.outcome != Outcome::Missing);
    let report = Report { version: env!("CARGO_PKG_VERSION"), ok, checks };
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).map_err(|error| Problem::failure(error.to_string()))?
    } else {
        for_people(&report)
    };
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn for_people(report: &Report) -> String {
    let mut lines = vec![format!("worker {}", report.version)];
    for Check { name, outcome, found, help } in &report.checks {
        let mark = match outcome {
            Outcome::Ok => "ok     ",
            Outcome::Note => "note   ",
            Outcome::Missing => "MISSING",
        };
        lines.push(format!("{mark}  {name}: {found}"));
        lines.extend(help.as_ref().map(|help| format!("         help: {help}")));
    }
    lines.push(if report.ok { "Ready to train.".to_owned() } else { "Not ready; see MISSING above.".to_owned() });
    lines.join("\n")
}

/// The libtorch that is really loaded: found in this process's memory map.
fn libtorch() -> Check {
    let report = c10d::runtime_report();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let loaded = loaded.into_iter().find(|path| path.ends_with("/libtorch_cpu.so"));
    match loaded.and_then(|path| Path::new(path).parent()) {
        Some(folder) => Check::ok("libtorch", format!("{} in {}", report.libtorch, folder.display())),
        None => Check::missing(
            "libtorch",
            format!("built against {}, but no libtorch_cpu.so is loaded", report.libtorch),
            "run `cargo xtask setup`, or set LIBTORCH and build again",
        ),
    }
}

fn gloo() -> Check {
    if c10d::runtime_report().gloo {
        Check::ok("gloo", "built in: workers on CPUs can train together")
    } else {
        Check::missing("gloo", "not built in", "build against a libtorch with USE_DISTRIBUTED and Gloo")
    }
}

fn nccl() -> Check {
    match c10d::runtime_report().nccl {
        Ok(version) => Check::ok("nccl", version),
        Err(reason) => {
            Check::note("nccl", reason, "for GPUs: build with `--features worker/cuda` against a libtorch with CUDA")
        }
    }
}

fn cuda() -> Check {
    let devices = c10d::runtime_report().cuda_devices;
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.as_deref().and_then(|text| text.lines().next()).map(str::trim);
    match (devices, driver) {
        (0, None) => Check::note("cuda", "no NVIDIA driver, so no GPU", "training runs on the CPU"),
        (0, Some(driver)) => {
            let help = "this build's libtorch cannot use the driver: build with `--features worker/cuda`";
            Check::note("cuda", format!("a driver ({driver}), but libtorch sees no device"), help)
        }
        (count, driver) => {
            Check::ok("cuda", format!("{count} devices ({})", driver.unwrap_or("driver version unknown")))
        }
    }
}

fn coordinator(address: &str, token_file: Option<&PathBuf>) -> Check {
    const NAME: &str = "coordinator";
    let attempt = || -> Result<Check, Problem> {
        let token = crate::cli::token(token_file)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Problem::failure(error.to_string()))?;
        runtime.block_on(async {
            let coordinator = Coordinator::new(address, token.as_ref())?;
            let mut runs = coordinator.runs();
            let call = runs.list(ListRunsRequest {});
            let answer = tokio::time::timeout(Duration::from_secs(5), call).await;
            let answer = answer.map_err(|_| Problem::failure(format!("{address} does not answer within 5 s")))?;
            answer.map_err(|status| Problem::from_status(&coordinator, &status))?;
            Ok(Check::ok(NAME, format!("{address} answers and accepts the token")))
        })
    };
    attempt().unwrap_or_else(|problem| {
        let (text, help) = problem.into_text_and_help();
        Check::missing(NAME, text, help.unwrap_or_else(|| "check the address and the network".to_owned()))
    })
}
