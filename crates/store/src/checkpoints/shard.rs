//! Which workers have uploaded their files, and the commit when all have.
//!
//! The bookkeeping lies beside the files (`shard-<rank>-of-<world>.json`), so that a coordinator that was restarted
//! between two shards still completes the checkpoint.

use super::manifest::MANIFEST;
use super::{CheckpointError, CheckpointFile, CheckpointId, CheckpointRepository, Manifest, check_file_name};
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::{Digest, Rank, WorldSize};

/// "Rank `rank` of `world` has uploaded these files."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Who.
    pub rank: Rank,
    /// Of how many.
    pub world: WorldSize,
    /// All files of this rank.
    pub files: Vec<CheckpointFile>,
    /// Held-out loss at this step, if it was measured.
    pub eval_loss: Option<f64>,
    /// See [`Manifest::score`].
    #[serde(default)]
    pub score: Option<f64>,
    /// SHA-256 of all parameters in name order.
    pub weights_digest: Option<Digest>,
}

/// What completing a shard came to.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardOutcome {
    /// These ranks have yet to complete theirs.
    Waiting {
        /// Ascending.
        missing: Vec<Rank>,
    },
    /// This was the last shard: the checkpoint exists from now on.
    Committed(Manifest),
    /// The checkpoint was committed before, with these files in it: a retry.
    AlreadyCommitted(Manifest),
}

impl CheckpointRepository {
    /// Records that a rank has uploaded its files, and commits the checkpoint if it was the last one.
    ///
    /// # Errors
    /// A file that is not there or has another size, ranks that contradict each other (another world size, two files
    /// of one name, two digests of the same weights), a full disk, a store that fails.
    pub async fn complete_shard(
        &self,
        id: &CheckpointId,
        shard: &Shard,
        now_ms: i64,
    ) -> Result<ShardOutcome, CheckpointError> {
        let contradiction = |message| CheckpointError::Shard { checkpoint: id.clone(), message };
        if shard.rank.0 >= shard.world.0 {
            return Err(contradiction(format!("there is no rank {} of {}", shard.rank, shard.world)));
        }
        for file in &shard.files {
            check_file_name(&file.name)?;
        }
        let _order = self.order.lock().await;
        match self.manifest(id).await {
            Ok(manifest) if shard.files.iter().all(|file| manifest.file(&file.name) == Some(file)) => {
                return Ok(ShardOutcome::AlreadyCommitted(manifest));
            }
            Ok(_) => return Err(contradiction("it is committed already, with other files".to_owned())),
            Err(CheckpointError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
        self.check_uploaded(id, &shard.files).await?;
        let record = shard_record(shard.rank, shard.world);
        let text = serde_json::to_vec(shard).expect("a shard is JSON");
        self.put_small(id, &record, text).await?;

        let mut shards = BTreeMap::new();
        for rank in (0..shard.world.0).map(Rank) {
            if let Some(other) = self.read_shard(id, rank, shard.world).await? {
                shards.insert(rank, other);
            }
        }
        let missing: Vec<Rank> = (0..shard.world.0).map(Rank).filter(|rank| !shards.contains_key(rank)).collect();
        if !missing.is_empty() {
            return Ok(ShardOutcome::Waiting { missing });
        }
        let manifest = merge(id, shard.world, shards.into_values(), now_ms).map_err(contradiction)?;
        self.put_small(id, MANIFEST, manifest.to_text().into_bytes()).await?;
        tracing::info!(run = %id.run, generation = id.generation.0, step = id.step.0, "checkpoint committed");
        // Of no use any more. What cannot be removed now goes when the checkpoint goes.
        for rank in (0..shard.world.0).map(Rank) {
            let path = self.path(id, &shard_record(rank, shard.world));
            if let Err(error) = self.store.delete(&path).await {
                tracing::debug!(%path, %error, "cannot remove a shard's record");
            }
        }
        Ok(ShardOutcome::Committed(manifest))
    }

    async fn check_uploaded(&self, id: &CheckpointId, files: &[CheckpointFile]) -> Result<(), CheckpointError> {
        for file in files {
            let contradiction = |message| CheckpointError::Shard { checkpoint: id.clone(), message };
            match self.store.head(&self.path(id, &file.name)).await {
                Ok(found) if found.size == file.bytes => {}
                Ok(found) => {
                    let message = format!("`{}` has {} bytes instead of {}", file.name, found.size, file.bytes);
                    return Err(contradiction(message));
                }
                Err(object_store::Error::NotFound { .. }) => {
                    return Err(contradiction(format!("`{}` was not uploaded", file.name)));
                }
                Err(error) => return Err(CheckpointError::io("look at", self.shown(id, &file.name), &error)),
            }
        }
        Ok(())
    }

    async fn put_small(&self, id: &CheckpointId, name: &str, content: Vec<u8>) -> Result<(), CheckpointError> {
        let (path, shown, bytes) = (self.path(id, name), self.shown(id, name), content.len() as u64);
        let written = self.store.put(&path, PutPayload::from(content)).await;
        if let (Err(_), Some(local)) = (&written, &self.local) {
            local.sweep(&path);
        }
        written.map(drop).map_err(|error| CheckpointError::writing(shown, bytes, self.free_bytes(), &error))
    }

    async fn read_shard(
        &self,
        id: &CheckpointId,
        rank: Rank,
        world: WorldSize,
    ) -> Result<Option<Shard>, CheckpointError> {
        let name = shard_record(rank, world);
        let Some(text) = self.get_small(id, &name).await? else { return Ok(None) };
        // One that cannot be read is as good as none: the rank will be asked for again.
        Ok(serde_json::from_slice(&text).ok())
    }
}

fn merge(
    id: &CheckpointId,
    world: WorldSize,
    shards: impl Iterator<Item = Shard>,
    now_ms: i64,
) -> Result<Manifest, String> {
    let (mut files, mut eval_loss, mut score, mut weights_digest) = (BTreeMap::new(), None, None, None);
    for shard in shards {
        for file in shard.files {
            let name = file.name.clone();
            if files.insert(name.clone(), file).is_some() {
                return Err(format!("two ranks uploaded `{name}`"));
            }
        }
        eval_loss = eval_loss.or(shard.eval_loss);
        score = score.or(shard.score);
        match (weights_digest, shard.weights_digest) {
            (Some(one), Some(other)) if one != other => {
                return Err(format!("the replicas disagree: weights {one} and {other}"));
            }
            (one, other) => weights_digest = one.or(other),
        }
    }
    Ok(Manifest::new(id.clone(), world, now_ms, (eval_loss, score), weights_digest, files.into_values().collect()))
}

fn shard_record(rank: Rank, world: WorldSize) -> String {
    format!("shard-{rank}-of-{world}.json")
}

/// Whether a file's name is one of ours.
pub(super) fn is_shard_record(name: &str) -> bool {
    name.starts_with("shard-") && name.ends_with(".json")
}
