//! Sweeps, as people see them.

mod table;

use super::checkpoints::{self, Pin, Repository};
use super::clock::Clock;
use super::driver::{Command, SweepCommand, conflict};
use super::parent::{self, Parent};
use super::runs::{Shown, ending};
use super::submit::{self, Submission};
use super::wire;
use config::{CheckedConfig, InitSource, RunConfig, SweepPoint};
use control::RunStatus;
use proto::{Failure, FailureKind, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{MetricRow, Reader, RunRow, SweepRow, SweepRunRow};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use types::Digest;

/// Serves `trireme.v1.Sweeps`.
#[derive(Debug)]
pub struct SweepsService {
    /// What people are shown.
    pub shown: Shown,
    /// For `init.from = "run:…"`.
    pub repository: Arc<Repository>,
}

/// A run of a sweep as it stands, with its held-out metrics if it has completed.
struct Stand {
    place: SweepRunRow,
    row: RunRow,
    metrics: Vec<MetricRow>,
}

impl SweepsService {
    async fn row(&self, name: &str) -> Result<Option<SweepRow>, Failure> {
        let name = name.to_owned();
        self.shown.reader.call(move |reader| reader.sweep(&name)).await.map_err(wire::database_failure)
    }

    async fn found(&self, name: &str) -> Result<SweepRow, Failure> {
        self.row(name).await?.ok_or_else(|| {
            let message = format!("there is no sweep `{name}`; `coordinator sweep list` shows all");
            Failure::new(FailureKind::NotFound, message)
        })
    }

    /// A sweep with how far it is.
    async fn show_row(&self, row: SweepRow) -> Result<v1::Sweep, Failure> {
        let read = move |reader: &mut Reader| stands(reader, &row, true).map(|stands| (row, stands));
        let (row, stands) = self.shown.reader.call(read).await.map_err(wire::database_failure)?;
        let (combinations, best) = table::of(&row.metric, &stands);
        Ok(v1::Sweep { combinations, best, ..sweep(row, stands) })
    }

    /// Its runs, each found good: of each combination and fold the first, with the others as far as they differ from it.
    async fn look_at(&self, points: &[SweepPoint]) -> Result<Vec<Submission>, Failure> {
        let mut runs: Vec<Submission> = Vec::with_capacity(points.len());
        let mut first: BTreeMap<(u32, Option<u32>), usize> = BTreeMap::new();
        // A checkpoint that is written meanwhile must not make some of the runs start from another one.
        let mut sources: BTreeMap<String, String> = BTreeMap::new();
        for (index, point) in points.iter().enumerate() {
            let (run, config) = (&point.config.run.name, &point.config);
            let alike = first.get(&(point.combination, point.fold)).copied();
            let submission = match alike {
                Some(alike) => runs[alike].with_seed(config, &self.repository).await,
                None => {
                    let named =
                        |failure: Failure| Failure::new(failure.kind, format!("run {run}: {}", failure.message));
                    let parent = self.parent(config, &mut sources).await.map_err(named)?;
                    first.insert((point.combination, point.fold), index);
                    submit::look_at(config, parent, &self.shown.corpora).await.map_err(named)?
                }
            };
            runs.push(submission);
        }
        let bytes = runs.iter().fold(0_u64, |all, run| all.saturating_add(run.bytes));
        self.repository.store().check_space(bytes).map_err(checkpoints::failure)?;
        Ok(runs)
    }

    async fn parent(&self, config: &CheckedConfig, sources: &mut BTreeMap<String, String>) -> Result<Parent, Failure> {
        let written = parent::named(config);
        let from = sources.get(&written).unwrap_or(&written);
        let parent = if *from == written {
            parent::of(config, &self.shown.reader, &self.repository).await?
        } else {
            let mut pinned = RunConfig::clone(config);
            match &mut pinned.distill {
                Some(distill) => distill.teacher.clone_from(from),
                None => pinned.init.from.clone_from(from),
            }
            let pinned =
                pinned.check("config").map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
            parent::of(&pinned, &self.shown.reader, &self.repository).await?
        };
        if let (Some(id), Ok(InitSource::Run { .. })) = (parent.pin.as_ref().map(Pin::id), config.source().1) {
            sources.insert(written, format!("run:{}@{}", id.run, id.step.0));
        }
        Ok(parent)
    }
}

/// The runs of a sweep. Metrics of those that have not completed say nothing yet.
fn stands(reader: &Reader, sweep: &SweepRow, with_metrics: bool) -> Result<Vec<Stand>, store::DatabaseError> {
    let mut stands = Vec::with_capacity(sweep.runs.len());
    for place in &sweep.runs {
        // Their rows were written together, and no run is ever deleted.
        let Some(row) = reader.run(&place.run)? else { continue };
        let mut metrics = Vec::new();
        if with_metrics && row.status == "completed" {
            metrics = reader.latest_metrics(&row.id)?;
            // What the last evaluation could not tell, an earlier one must not tell in its place.
            metrics.retain(|metric| metric.key.starts_with("eval/") && metric.step == row.step);
        }
        stands.push(Stand { place: place.clone(), row, metrics });
    }
    Ok(stands)
}

/// As a single run is refused.
fn nothing_to_cancel(sweep: &v1::Sweep) -> Failure {
    let has_ended = |run: &v1::SweepRun| RunStatus::parse(&run.status).is_some_and(RunStatus::has_ended);
    let ended = sweep.runs.iter().all(has_ended);
    let (name, runs) = (&sweep.name, sweep.runs.len());
    let message = if ended {
        format!("sweep `{name}` has already ended, with all {runs} runs; `coordinator sweep show {name}` shows how")
    } else {
        format!("sweep `{name}` is being cancelled: wait until its runs have stopped")
    };
    Failure::new(FailureKind::Conflict, message)
}

fn sweep(row: SweepRow, stands: Vec<Stand>) -> v1::Sweep {
    let run = |stand: Stand| v1::SweepRun {
        run: stand.row.id.to_string(),
        name: stand.row.name,
        status: stand.row.status,
        reason: stand.row.reason.unwrap_or_default(),
        step: stand.row.step.0,
        total_steps: stand.row.total_steps.0,
        combination: stand.place.combination,
        seed: stand.place.seed,
        fold: stand.place.fold,
        metrics: stand.metrics.into_iter().map(wire::metric).collect(),
    };
    v1::Sweep {
        name: row.name,
        digest: row.digest.to_string(),
        metric: row.metric,
        created_ms: row.created_ms,
        config: row.config,
        runs: stands.into_iter().map(run).collect(),
        ..v1::Sweep::default()
    }
}

#[tonic::async_trait]
impl v1::sweeps_server::Sweeps for SweepsService {
    async fn submit(&self, request: Request<v1::SubmitSweepRequest>) -> Result<Response<v1::Sweep>, Status> {
        let config = submit::read(&request.into_inner().config)?;
        let text = config::to_toml(&config);
        let (name, digest) = (config.run.name.clone(), Digest::blake3(text.as_bytes()));
        // Whoever sends it again, since no answer came, need not wait until all is looked at again.
        if let Some(row) = self.row(&name).await? {
            if row.digest != digest {
                return Err(conflict(&name).into());
            }
            return Ok(Response::new(v1::Sweep { known: true, ..self.show_row(row).await? }));
        }
        let points =
            config.sweep_points("config").map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        if points.is_empty() {
            let message = "`sweep`: there is none\n  help: add a [sweep] section, or submit a single run with `coordinator submit`";
            return Err(Failure::new(FailureKind::Invalid, message).into());
        }
        let runs = self.look_at(&points).await?;
        let places = runs.iter().zip(points).map(|(run, point)| SweepRunRow {
            run: run.run.clone(),
            combination: point.combination,
            settings: point.settings,
            seed: point.seed,
            fold: point.fold,
        });
        let row = SweepRow {
            name: name.clone(),
            digest,
            metric: config.sweep_metric(),
            config: text,
            created_ms: Clock::wall_ms(),
            runs: places.collect(),
        };
        let count = runs.len();
        let mut warnings: Vec<String> = Vec::new();
        for warning in runs.iter().flat_map(|run| &run.warnings) {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
        let (done, answer) = oneshot::channel();
        let command = Command::Sweep(SweepCommand::Submit { row, runs, done });
        self.shown.commands.send(command).await.map_err(|_| ending())?;
        let known = answer.await.map_err(|_| ending())??;
        tracing::info!(sweep = name, runs = count, known, "sweep submitted");
        let row = self.found(&name).await?;
        Ok(Response::new(v1::Sweep {
            known,
            warnings: if known { Vec::new() } else { warnings },
            ..self.show_row(row).await?
        }))
    }

    async fn list(&self, _: Request<v1::ListSweepsRequest>) -> Result<Response<v1::ListSweepsResponse>, Status> {
        let read = |reader: &mut Reader| -> Result<Vec<v1::Sweep>, store::DatabaseError> {
            let rows = reader.sweeps()?;
            rows.into_iter().map(|row| stands(reader, &row, false).map(|stands| sweep(row, stands))).collect()
        };
        let sweeps = self.shown.reader.call(read).await.map_err(wire::database_failure)?;
        Ok(Response::new(v1::ListSweepsResponse { sweeps }))
    }

    async fn show(&self, request: Request<v1::SweepRequest>) -> Result<Response<v1::Sweep>, Status> {
        let row = self.found(&request.into_inner().name).await?;
        Ok(Response::new(self.show_row(row).await?))
    }

    async fn cancel(&self, request: Request<v1::SweepRequest>) -> Result<Response<v1::Sweep>, Status> {
        let row = self.found(&request.into_inner().name).await?;
        let (done, answer) = oneshot::channel();
        let runs = row.runs.iter().map(|it| it.run.clone()).collect();
        let command = Command::Sweep(SweepCommand::Cancel { runs, done });
        self.shown.commands.send(command).await.map_err(|_| ending())?;
        let cancelled = answer.await.map_err(|_| ending())?;
        let sweep = self.show_row(row).await?;
        if cancelled == 0 {
            return Err(nothing_to_cancel(&sweep).into());
        }
        Ok(Response::new(v1::Sweep { cancelled, ..sweep }))
    }
}
