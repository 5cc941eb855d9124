//! Slows processes down: each runs for its part of every period and is stopped for the rest.
//!
//! Three workers with a core each cannot be had on a machine of two cores. Three that run for parts of the time can, if
//! no more than two of them run at any moment.

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Far below what a coordinator takes for silence, and short beside a step, in whose collectives the others wait for one
/// that is stopped.
const PERIOD: Duration = Duration::from_millis(10);

/// The part of each period in which a process runs: from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub from: f64,
    pub to: f64,
}

/// Stops and continues processes until it is dropped; they all run then.
pub struct Throttle {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    pub fn start(processes: &[(u32, Window)]) -> Result<Self> {
        let windows: Vec<Window> = processes.iter().map(|(_, window)| *window).collect();
        let edges = edges(&windows)?;
        let running = Running(processes.iter().map(|(process, _)| Pid::from_raw(*process as i32)).collect());
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::Builder::new().name("throttle".to_owned()).spawn(move || {
            let mut period = Instant::now();
            while !told.load(Ordering::Relaxed) {
                for edge in &edges {
                    std::thread::sleep((period + PERIOD.mul_f64(edge.at)).saturating_duration_since(Instant::now()));
                    running.signal(edge);
                }
                // After a hold-up the periods that were missed are not made up for.
                period = (period + PERIOD).max(Instant::now() - PERIOD);
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Processes that must run when the throttle ends, however it ends.
struct Running(Vec<Pid>);

impl Running {
    /// A process that has ended is no concern of the throttle's: whoever measures sees that the run lost a worker.
    fn signal(&self, edge: &Edge) {
        let _ = kill(self.0[edge.process], if edge.runs { Signal::SIGCONT } else { Signal::SIGSTOP });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in &self.0 {
            let _ = kill(*process, Signal::SIGCONT);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Edge {
    /// In periods.
    at: f64,
    process: usize,
    runs: bool,
}

/// What happens in each period, in order; who stops at a moment does so before another one goes on.
fn edges(windows: &[Window]) -> Result<Vec<Edge>> {
    let mut edges = Vec::with_capacity(2 * windows.len());
    for (process, Window { from, to }) in windows.iter().copied().enumerate() {
        ensure!(0.0 <= from && from < to && to <= 1.0, "{from} to {to} is no part of a period");
        // Who always runs is left alone.
        if to - from < 1.0 {
            edges.extend([Edge { at: from, process, runs: true }, Edge { at: to % 1.0, process, runs: false }]);
        }
    }
    edges.sort_by(|a, b| (a.at, a.runs).partial_cmp(&(b.at, b.runs)).expect("finite"));
    Ok(edges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processes_run_in_their_windows_only() {
        let windows = [Window { from: 0.0, to: 0.6 }, Window { from: 0.4, to: 1.0 }, Window { from: 0.0, to: 0.3 }];
        let edge = |at, process, runs| Edge { at, process, runs };
        let expected = [
            edge(0.0, 1, false),
            edge(0.0, 0, true),
            edge(0.0, 2, true),
            edge(0.3, 2, false),
            edge(0.4, 1, true),
            edge(0.6, 0, false),
        ];
        assert_eq!(edges(&windows).unwrap(), expected);
        assert!(edges(&[Window { from: 0.0, to: 1.0 }]).unwrap().is_empty());
        assert!(edges(&[Window { from: 0.5, to: 0.5 }]).is_err());
        assert!(edges(&[Window { from: 0.5, to: 1.1 }]).is_err());
    }

    /// The third field after the name in parentheses is its state.
    fn is_stopped(process: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    }

    #[test]
    fn processes_run_again_once_the_throttle_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let throttle = Throttle::start(&[(child.id(), Window { from: 0.0, to: 0.1 })]).unwrap();
        while !is_stopped(child.id()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(throttle);
        while is_stopped(child.id()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
