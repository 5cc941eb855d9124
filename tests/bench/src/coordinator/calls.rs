//! Calls that are answered, one after the other, while the coordinator has something to do.

use super::wire::Coordinator;
use crate::report::Line;
use crate::stats::percentile;
use anyhow::{Result, bail, ensure};
use proto::v1;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::{Code, Status};

/// Between the answer to a call and the next one.
const PAUSE: Duration = Duration::from_millis(5);
/// A person looks at the run once in so many calls.
const SHOW_EVERY: u64 = 10;

/// How long the answers took, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// Setting and getting keys, as workers do to find each other.
    pub rendezvous: Vec<f64>,
    /// `runs show`.
    pub show: Vec<f64>,
}

impl Answered {
    /// How fast, at the 99th percentile.
    pub fn lines(&self, case: impl Fn(&str) -> String) -> Result<Vec<Line>> {
        let line = |(what, answers): (&str, &Vec<f64>)| {
            let mut answers = answers.clone();
            answers.sort_by(f64::total_cmp);
            ensure!(!answers.is_empty(), "no call of {what} was answered");
            let line =
                Line::figure("coordinator", case(what), 1e3 * percentile(&answers, 0.99), "ms").no_more_than(50.0);
            Ok(line.note(format!("{} calls, median {:.2} ms", answers.len(), 1e3 * percentile(&answers, 0.5))))
        };
        [("rendezvous", &self.rendezvous), ("runs show", &self.show)].into_iter().map(line).collect()
    }
}

/// Calls until `stop` says so. `generation` is the run's present one: of another a key cannot be set.
pub async fn call(
    coordinator: Coordinator,
    run: String,
    generation: u64,
    stop: watch::Receiver<bool>,
) -> Result<Answered> {
    let channel = coordinator.connect().await?;
    let mut rendezvous = v1::rendezvous_client::RendezvousClient::new(channel.clone());
    let mut runs = v1::runs_client::RunsClient::new(channel);
    let scope = || Some(v1::Scope { run: run.clone(), generation, worker: "simulated-calls".to_owned() });
    let mut answered = Answered::default();
    let mut number = 0;
    while !*stop.borrow() {
        let key = format!("key-{}", number / 2 % 64);
        let began = Instant::now();
        if number % SHOW_EVERY == SHOW_EVERY - 1 {
            expect(runs.show(coordinator.request(v1::RunRequest { run: run.clone() })).await)?;
            answered.show.push(began.elapsed().as_secs_f64());
        } else {
            if number % 2 == 0 {
                let value = vec![7; 64];
                expect(rendezvous.set(coordinator.request(v1::KeyValue { scope: scope(), key, value })).await)?;
            } else {
                let request = v1::KeysRequest { scope: scope(), keys: vec![key], wait_ms: 0 };
                expect(rendezvous.check(coordinator.request(request)).await)?;
            }
            answered.rendezvous.push(began.elapsed().as_secs_f64());
        }
        number += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(answered)
}

fn expect<T>(answer: Result<T, Status>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::Aborted => bail!("a member was lost meanwhile: {}", status.message()),
        Err(status) => bail!("a call was refused: {status}"),
    }
}
