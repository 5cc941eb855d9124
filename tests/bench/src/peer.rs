//! The peer: `peer.py`, a process that does a block of steps whenever it is asked to.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The model and the batch.
#[derive(Serialize)]
pub struct Spec {
    pub vocabulary: i64,
    pub hidden: i64,
    pub layers: i64,
    pub heads: i64,
    pub intermediate: i64,
    pub max_positions: i64,
    pub batch: u64,
    pub sequence_length: usize,
    pub threads: u32,
}

#[derive(Deserialize)]
struct Block {
    seconds: Vec<f64>,
}

pub struct Peer {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(python: &Path, spec: &Spec) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peer.py");
        let threads = spec.threads.to_string();
        let mut process = Command::new(python)
            .arg(script)
            .arg(serde_json::to_string(spec)?)
            .envs([("OMP_NUM_THREADS", threads.as_str()), ("MKL_NUM_THREADS", &threads), ("HF_HUB_OFFLINE", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} {script}", python.display()))?;
        let questions = process.stdin.take().expect("it was piped");
        let answers = BufReader::new(process.stdout.take().expect("it was piped"));
        Ok(Self { process, questions, answers })
    }

    /// Does `steps` steps and one before them that is not counted; the seconds of each.
    pub fn block(&mut self, steps: usize) -> Result<Vec<f64>> {
        // A peer that died shows at the answer, which says more.
        let _ = writeln!(self.questions, "{}", steps + 1);
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the peer ended ({}); what it said is above", self.process.wait()?);
        }
        let block: Block = serde_json::from_str(&line).with_context(|| format!("the peer's answer was: {line}"))?;
        Ok(block.seconds[1..].to_vec())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
