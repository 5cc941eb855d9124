//! Shared by the tests: stores, files, and a whole checkpoint written the way two workers write it.

mod damage;
mod deleting;
mod faults;
mod faulty;
mod full_disk;
mod writing;

use super::local::LocalFolder;
use super::upload::PART_BYTES;
use super::{CheckpointError, CheckpointFile, CheckpointId, CheckpointRepository, Manifest, Shard, ShardOutcome};
use bytes::Bytes;
use faulty::{FaultyStore, Plan};
use futures::{Stream, stream};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::sync::Arc;
use types::{Digest, Generation, Rank, RunId, Step, WorldSize};

fn run_id() -> RunId {
    "run-1".parse().unwrap()
}

fn id(generation: u64, step: u64) -> CheckpointId {
    CheckpointId { run: run_id(), generation: Generation(generation), step: Step(step) }
}

/// A store that outlives the repositories on it, as a disk outlives a coordinator.
struct Disk {
    store: Arc<dyn ObjectStore>,
    folder: Option<tempfile::TempDir>,
}

impl Disk {
    fn memory() -> Self {
        Self { store: Arc::new(InMemory::new()), folder: None }
    }

    fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointRepository::open(folder.path().to_str().unwrap()).unwrap().store;
        Self { store, folder: Some(folder) }
    }

    fn both() -> [Self; 2] {
        [Self::memory(), Self::local()]
    }

    fn repository(&self) -> CheckpointRepository {
        self.on(self.store.clone())
    }

    fn breaking(&self, plan: &Plan) -> CheckpointRepository {
        self.on(Arc::new(FaultyStore { inner: self.store.clone(), plan: plan.clone() }))
    }

    fn on(&self, store: Arc<dyn ObjectStore>) -> CheckpointRepository {
        let local = self.folder.as_ref().map(|folder| LocalFolder::new(folder.path().canonicalize().unwrap()));
        CheckpointRepository::new(store, Path::default(), "/store".into(), local)
    }

    /// Everything on a local disk, temporary files too.
    fn on_disk(&self) -> Vec<String> {
        fn walk(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path.display().to_string()) }
            }
        }
        let mut found = vec![];
        walk(self.folder.as_ref().unwrap().path(), &mut found);
        found.sort();
        found
    }
}

/// Content that differs from file to file and from step to step.
fn content(name: &str, step: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).update(&step.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn file(name: &str, content: &[u8]) -> CheckpointFile {
    CheckpointFile { name: name.into(), bytes: content.len() as u64, blake3: Digest::blake3(content) }
}

/// In chunks of a size that is no divisor of anything.
fn chunks(content: &Bytes) -> impl Stream<Item = Result<Bytes, String>> + Unpin + use<> {
    let content = content.clone();
    let ends = (0..content.len()).step_by(10_007).map(move |at| Ok(content.slice(at..content.len().min(at + 10_007))));
    stream::iter(ends.collect::<Vec<_>>())
}

/// What two workers write: one file of several parts, small ones, an empty one.
fn files(step: u64) -> [Vec<(&'static str, Bytes)>; 2] {
    let make = |name, length| (name, content(name, step, length));
    [
        vec![
            make("model.safetensors", 3 * PART_BYTES + 17),
            make("optimizer-0-of-2.safetensors", 900),
            make("state.json", 40),
        ],
        vec![make("optimizer-1-of-2.safetensors", PART_BYTES), make("empty.txt", 0)],
    ]
}

async fn put(
    repository: &CheckpointRepository,
    id: &CheckpointId,
    name: &str,
    content: &Bytes,
) -> Result<(), CheckpointError> {
    repository.put_file(id, &file(name, content), chunks(content)).await
}

fn shard(rank: u32, step: u64) -> Shard {
    Shard {
        rank: Rank(rank),
        world: WorldSize(2),
        files: files(step)[rank as usize].iter().map(|(name, content)| file(name, content)).collect(),
        eval_loss: (rank == 0).then_some(step as f64 / 10.0),
        score: (rank == 0).then_some((step % 5) as f64),
        weights_digest: Some(Digest::blake3(&step.to_le_bytes())),
    }
}

/// A whole checkpoint, as two workers write it.
async fn write(repository: &CheckpointRepository, id: &CheckpointId) -> Result<Manifest, CheckpointError> {
    let mut outcome = None;
    for (rank, files) in (0..).zip(files(id.step.0)) {
        for (name, content) in files {
            put(repository, id, name, &content).await?;
        }
        outcome = Some(repository.complete_shard(id, &shard(rank, id.step.0), 77).await?);
    }
    match outcome {
        Some(ShardOutcome::Committed(manifest) | ShardOutcome::AlreadyCommitted(manifest)) => Ok(manifest),
        other => panic!("{other:?}"),
    }
}

/// What a reader finds; every listed checkpoint must be whole.
async fn listed(repository: &CheckpointRepository) -> Vec<(u64, u64)> {
    let mut found = vec![];
    for manifest in repository.list(&run_id()).await.unwrap() {
        assert_eq!(repository.verify(&manifest.id).await.unwrap(), [], "{} is listed but not whole", manifest.id);
        found.push((manifest.id.generation.0, manifest.id.step.0));
    }
    found
}
