//! Deleting: what the policy does not keep, and what was never finished.

use super::manifest::MANIFEST;
use super::{CheckpointError, CheckpointId, CheckpointProblem, CheckpointRepository, Manifest};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::collections::HashSet;
use types::{Generation, RunId};

/// How many checkpoints of a run stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest so many, at least one.
    pub keep_latest: usize,
    /// And so many of the best.
    pub keep_best: usize,
    /// Which these are.
    pub best: Best,
}

/// What makes one checkpoint better than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Best {
    /// A lower held-out loss.
    #[default]
    Loss,
    /// A lower score.
    Lower,
    /// A higher score.
    Higher,
}

impl Best {
    /// The smaller the better; none if it was not measured.
    fn rank(self, eval_loss: Option<f64>, score: Option<f64>) -> Option<f64> {
        match self {
            Self::Loss => eval_loss,
            Self::Lower => score,
            Self::Higher => score.map(|score| -score),
        }
    }

    /// The place of the best one; each is its loss and its score, oldest first. Of equal ones it is the newest.
    pub fn among(self, measured: impl IntoIterator<Item = (Option<f64>, Option<f64>)>) -> Option<usize> {
        let ranked =
            measured.into_iter().enumerate().filter_map(|(at, (loss, score))| Some((at, self.rank(loss, score)?)));
        ranked.min_by(|(at, one), (other, two)| one.total_cmp(two).then(other.cmp(at))).map(|(at, _)| at)
    }
}

/// What a run's history says of one of its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the state that the run went through.
    Stands,
    /// The run went back and did its step again: nobody goes on from it any more.
    Superseded,
    /// Its step is not committed (yet), so that no restore may take it: it neither counts nor goes.
    Uncommitted,
    /// It is known not to be what was written: it neither takes a good one's place nor goes, since people may want to
    /// look at it.
    Damaged,
}

/// What retention did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retained {
    /// Why the newest one is bad. If this is not empty, nothing was deleted.
    pub newest_problems: Vec<CheckpointProblem>,
    /// The newest one, if there is any.
    pub newest: Option<CheckpointId>,
    /// What is no more, oldest first.
    pub deleted: Vec<CheckpointId>,
}

impl CheckpointRepository {
    /// Verifies the newest checkpoint among `all` (a run's, oldest first, see [`Self::list`]) and, if it is good,
    /// deletes those that the policy does not keep. `in_use` stay: what a restore is reading, what another run started
    /// from.
    pub async fn retain(
        &self,
        all: &[(Manifest, Standing)],
        policy: RetentionPolicy,
        in_use: &[CheckpointId],
    ) -> Result<Retained, CheckpointError> {
        let Some((newest, standing)) = all.last() else { return Ok(Retained::default()) };
        let newest_problems = self.verify(&newest.id).await?;
        let mut retained = Retained { newest_problems, newest: Some(newest.id.clone()), deleted: Vec::new() };
        if !retained.newest_problems.is_empty() {
            return Ok(retained);
        }
        // What a restore would take has to be good, too.
        let standing_newest = all.iter().rev().find(|(_, standing)| *standing == Standing::Stands);
        let good = match standing_newest {
            None => false,
            Some(_) if *standing == Standing::Stands => true,
            Some((manifest, _)) => self.verify(&manifest.id).await?.is_empty(),
        };
        if good {
            for id in surplus(all, policy, in_use) {
                self.delete(&id).await?;
                retained.deleted.push(id);
            }
        }
        Ok(retained)
    }

    /// Deletes a checkpoint, committed or not: its manifest first, so that a deletion that breaks off leaves nothing
    /// that looks whole. Deleting what is not there is no error.
    pub async fn delete(&self, id: &CheckpointId) -> Result<(), CheckpointError> {
        let _order = self.order.lock().await;
        let folder = id.folder(&self.base);
        let failed =
            |error: &(dyn std::error::Error + 'static)| CheckpointError::io("delete", self.location(id), error);
        match self.store.delete(&self.path(id, MANIFEST)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(&error)),
        }
        if let Some(local) = &self.local {
            // The manifest must be gone for good before the first file is.
            match local.sync(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
                _ => {}
            }
        }
        let files: Vec<_> = self.store.list(Some(&folder)).try_collect().await.map_err(|error| failed(&error))?;
        for file in files {
            match self.store.delete(&file.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        if let Some(local) = &self.local {
            local.remove(&folder).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Deletes the uploads of a run that were never committed and never will be: those of generations before `live`.
    pub async fn clean_unfinished(&self, run: &RunId, live: Generation) -> Result<Vec<CheckpointId>, CheckpointError> {
        let mut cleaned = Vec::new();
        for id in self.folders(run).await? {
            if id.generation < live && self.get_small(&id, MANIFEST).await?.is_none() {
                self.delete(&id).await?;
                cleaned.push(id);
            }
        }
        Ok(cleaned)
    }
}

/// What a policy does not keep of `all`, which is oldest first. Only what stands competes for a place.
fn surplus(all: &[(Manifest, Standing)], policy: RetentionPolicy, in_use: &[CheckpointId]) -> Vec<CheckpointId> {
    let standing: Vec<&Manifest> =
        all.iter().rev().filter(|(_, standing)| *standing == Standing::Stands).map(|(manifest, _)| manifest).collect();
    let latest = standing.iter().take(policy.keep_latest.max(1)).copied();
    let rank = |manifest: &Manifest| policy.best.rank(manifest.eval_loss, manifest.score);
    let mut measured: Vec<(f64, &Manifest)> =
        standing.iter().filter_map(|manifest| Some((rank(manifest)?, *manifest))).collect();
    // Stable: of two that are equally good the newer one stays.
    measured.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let best = measured.into_iter().take(policy.keep_best).map(|(_, manifest)| manifest);
    let kept: HashSet<&CheckpointId> = latest.chain(best).map(|manifest| &manifest.id).chain(in_use).collect();
    let goes = |(manifest, standing): &&(Manifest, Standing)| {
        !matches!(standing, Standing::Uncommitted | Standing::Damaged) && !kept.contains(&manifest.id)
    };
    all.iter().filter(goes).map(|(manifest, _)| manifest.id.clone()).collect()
}
