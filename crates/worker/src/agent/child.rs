//! One trainer process: its start, its socket, its output, and how it ended.
//!
//! The process finds its end of the socket as its standard input, so nothing has to be inherited by number, and its
//! standard output and error stay free to be captured.

use crate::link;
use nix::sys::signal::Signal;
use proto::v1::{CoordinatorMessage, WorkerMessage};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How much of the output is kept for the report of a death.
const LINES_MAX: usize = 25;
/// A line is cut here: a progress bar without line ends must not fill the memory.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// How to start a trainer process.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Added to the environment.
    pub variables: Vec<(OsString, OsString)>,
    /// A process that has not said that it is ready after this long hangs.
    pub ready_patience: Duration,
}

/// Why a trainer process is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// "exit status 1", "killed by signal 9 (SIGKILL)", with the panic's message where there was one.
    pub cause: String,
    /// The last lines it wrote.
    pub last_lines: Vec<String>,
}

/// A running trainer process. Dropping it kills it.
pub struct TrainerProcess {
    child: Child,
    to: OwnedWriteHalf,
    from: mpsc::Receiver<WorkerMessage>,
    lines: [LastLines; 2],
    copiers: Vec<JoinHandle<()>>,
}

impl TrainerProcess {
    /// Starts the process. Call it from a thread that outlives the process: the kernel ends the process with the thread
    /// that started it.
    pub fn start(program: &Program) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = Command::new(&program.path)
            .arg0("worker")
            .args(&program.arguments)
            .envs(program.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (mut read_half, to) = UnixStream::from_std(ours)?.into_split();
        let (sender, from) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                match link::read(&mut read_half).await {
                    Ok(Some(message)) => {
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the trainer process's socket broke");
                        return;
                    }
                }
            }
        });
        // A ring for each, so that chatter on stdout cannot push out the panic on stderr.
        let (stdout_lines, stderr_lines) = (LastLines::default(), LastLines::default());
        let mut copiers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            copiers.push(tokio::spawn(copy_lines(stdout, stdout_lines.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            copiers.push(tokio::spawn(copy_lines(stderr, stderr_lines.clone())));
        }
        Ok(Self { child, to, from, lines: [stdout_lines, stderr_lines], copiers })
    }

    /// The next message; None once the process has closed its end, which is when it has ended or is about to.
    pub async fn receive(&mut self) -> Option<WorkerMessage> {
        self.from.recv().await
    }

    /// Hands a message to the process. A process that is gone is noticed by [`TrainerProcess::receive`], so that is no
    /// error here.
    pub async fn send(&mut self, message: &CoordinatorMessage) {
        if let Err(error) = link::write(&mut self.to, message).await {
            tracing::debug!(%error, "the trainer process takes no more messages");
        }
    }

    /// Ends the process at once; [`TrainerProcess::wait`] tells that it did.
    pub fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "the trainer process is gone already");
        }
    }

    /// Asks the process to end by closing its input, waits at most `patience`, then kills it.
    pub async fn end(mut self, patience: Duration) -> Death {
        let _ = self.to.shutdown().await;
        // What it still says must be read, or it could block on a full socket.
        let drained = async { while self.from.recv().await.is_some() {} };
        let _ = tokio::time::timeout(patience, drained).await;
        self.wait(patience).await
    }

    /// After [`TrainerProcess::receive`] said None: how the process ended. One that lingers is killed.
    pub async fn wait(mut self, patience: Duration) -> Death {
        let status = match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!("the trainer process closed its socket but did not end; killing it");
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        for copier in self.copiers {
            // A grandchild could hold the pipe open.
            let _ = tokio::time::timeout(Duration::from_secs(1), copier).await;
        }
        let last_lines: Vec<String> =
            self.lines.iter().flat_map(|ring| lock(ring).iter().cloned().collect::<Vec<_>>()).collect();
        let cause = match status {
            Ok(status) => describe(status, &last_lines),
            Err(error) => format!("its exit status cannot be read: {error}"),
        };
        Death { cause, last_lines }
    }
}

/// The last [`LINES_MAX`] lines of one stream.
type LastLines = Arc<Mutex<VecDeque<String>>>;

fn lock(lines: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies lines to our standard error with a prefix and keeps the last ones.
async fn copy_lines(source: impl AsyncRead + Unpin, lines: LastLines) {
    let mut source = BufReader::new(source);
    let mut out = tokio::io::stderr();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut source, LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let _ = out.write_all(format!("trainer | {line}\n").as_bytes()).await;
        let mut lines = lock(&lines);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// The exit status in words, with the panic's message if the output has one.
fn describe(status: ExitStatus, last_lines: &[String]) -> String {
    use std::os::unix::process::ExitStatusExt;
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
        let hint = if number == Signal::SIGKILL as i32 { "; out of memory? `dmesg` says" } else { "" };
        return format!("killed by signal {number} ({name}){hint}");
    }
    let code = status.code().unwrap_or(-1);
    match last_lines.iter().rev().find(|line| line.contains(crate::training::PANIC_MARK)) {
        Some(line) => format!("exit status {code}: {line}"),
        None => format!("exit status {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            variables: Vec::new(),
            ready_patience: Duration::MAX,
        }
    }

    async fn death_of(script: &str) -> Death {
        let mut process = TrainerProcess::start(&shell(script)).unwrap();
        assert!(process.receive().await.is_none());
        process.wait(Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn an_exit_status_is_named_with_the_last_lines() {
        let death = death_of("i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; echo bad >&2; exit 3").await;
        assert_eq!(death.cause, "exit status 3");
        assert_eq!(death.last_lines.len(), LINES_MAX + 1);
        assert!(death.last_lines.contains(&"bad".to_owned()) && death.last_lines.contains(&"line 59".to_owned()));
    }

    #[tokio::test]
    async fn a_signal_is_named() {
        assert_eq!(death_of("kill -KILL $$").await.cause, "killed by signal 9 (SIGKILL); out of memory? `dmesg` says");
        assert_eq!(death_of("kill -SEGV $$").await.cause, "killed by signal 11 (SIGSEGV)");
    }

    #[tokio::test]
    async fn a_panic_is_told_by_its_message() {
        let script = format!("echo '{} src/x.rs:1: no such tensor' >&2; exit 101", crate::training::PANIC_MARK);
        let cause = death_of(&script).await.cause;
        assert_eq!(cause, format!("exit status 101: {} src/x.rs:1: no such tensor", crate::training::PANIC_MARK));
    }

    #[tokio::test]
    async fn closing_its_input_ends_it_and_a_deaf_one_is_killed() {
        let process = TrainerProcess::start(&shell("cat; exit 7")).unwrap();
        assert_eq!(process.end(Duration::from_secs(10)).await.cause, "exit status 7");
        let process = TrainerProcess::start(&shell("exec 0<&-; exec sleep 600")).unwrap();
        assert!(process.end(Duration::from_millis(50)).await.cause.starts_with("killed by signal 9"));
    }
}
