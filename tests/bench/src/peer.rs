//! The peers: Python scripts in `peers/`, processes that answer each question with one line of JSON.

use anyhow::{Context, Result, bail};
use config::ModelShape;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// What a peer's BERT looks like; a part of each script's SPEC.
#[derive(Serialize)]
pub struct Shape {
    pub vocabulary: i64,
    pub hidden: i64,
    pub layers: i64,
    heads: i64,
    intermediate: i64,
    max_positions: i64,
    dropout: f64,
    attention_dropout: f64,
}

impl From<&ModelShape> for Shape {
    fn from(shape: &ModelShape) -> Self {
        let &ModelShape {
            vocabulary,
            hidden,
            layers,
            heads,
            intermediate,
            max_positions,
            dropout,
            attention_dropout,
            ..
        } = shape;
        Self { vocabulary, hidden, layers, heads, intermediate, max_positions, dropout, attention_dropout }
    }
}

#[derive(Deserialize)]
struct Block {
    seconds: Vec<f64>,
}

pub struct Peer {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it keeps on disk; gone with it.
    _folder: TempDir,
}

impl Peer {
    /// Starts `peers/NAME.py SPEC` with this many threads. Nothing is fetched, and what it keeps is not kept for long.
    pub fn start(python: &Path, name: &str, spec: &impl Serialize, threads: u32) -> Result<Self> {
        Self::start_with(python, name, spec, threads, &[])
    }

    /// The same with more variables in its environment.
    fn start_with(
        python: &Path,
        name: &str,
        spec: &impl Serialize,
        threads: u32,
        variables: &[(&str, String)],
    ) -> Result<Self> {
        let script = format!("{}/peers/{name}.py", env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir()?;
        let threads = threads.to_string();
        let mut process = Command::new(python)
            .arg(&script)
            .arg(serde_json::to_string(spec)?)
            .envs([("OMP_NUM_THREADS", threads.as_str()), ("MKL_NUM_THREADS", &threads), ("HF_HUB_OFFLINE", "1")])
            .env("HF_HOME", folder.path())
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} {script}", python.display()))?;
        let questions = process.stdin.take().expect("it was piped");
        let answers = BufReader::new(process.stdout.take().expect("it was piped"));
        Ok(Self { process, questions, answers, _folder: folder })
    }

    /// Asks and waits for the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, question: impl Display) -> Result<T> {
        self.tell(question);
        self.hear()
    }

    fn tell(&mut self, question: impl Display) {
        // A peer that died shows at the answer, which says more.
        let _ = writeln!(self.questions, "{question}");
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the peer ended ({}); what it said is above", self.process.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("the peer's answer was: {line}"))
    }

    /// Does `steps` steps and one before them that is not counted; the seconds of each.
    pub fn block(&mut self, steps: usize) -> Result<Vec<f64>> {
        let Block { seconds } = self.ask(steps + 1)?;
        Ok(seconds[1..].to_vec())
    }
}

/// Several processes of one peer that do their steps together, over torch.distributed.
pub struct Group(Vec<Peer>);

impl Group {
    /// One process for each rank, with this many threads each.
    pub fn start(python: &Path, name: &str, spec: &impl Serialize, ranks: usize, threads: u32) -> Result<Self> {
        // Free now; the first of them takes it in a moment.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let member = |rank: usize| {
            let variables = [
                ("MASTER_ADDR", "127.0.0.1".to_owned()),
                ("MASTER_PORT", port.clone()),
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", ranks.to_string()),
            ];
            Peer::start_with(python, name, spec, threads, &variables)
        };
        Ok(Self((0..ranks).map(member).collect::<Result<_>>()?))
    }

    /// As [`Peer::block`], by the clock of the first.
    pub fn block(&mut self, steps: usize) -> Result<Vec<f64>> {
        self.0.iter_mut().for_each(|peer| peer.tell(steps + 1));
        let blocks = self.0.iter_mut().map(Peer::hear).collect::<Result<Vec<Block>>>()?;
        Ok(blocks[0].seconds[1..].to_vec())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_started_is_named() {
        let error = Peer::start(Path::new("/nonexistent/python"), "step", &(), 1).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/python"), "{error:#}");
    }
}
