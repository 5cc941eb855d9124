//! Retention and the search for a checkpoint, over a real store and a real database.

use super::*;
use crate::server::on_thread::Joiner;
use bytes::Bytes;
use store::{AttemptRow, CheckpointFile, CommitRow, Database, Shard, ShardOutcome};
use types::{Attempt, Digest, Rank, WorldSize};

const CONFIG: &str = "[run]\nname = \"r\"\nkind = \"pretrain\"\nsteps = 100\n[data]\npaths = [\"/c\"]\n[tokenizer]\n\
    path = \"/t\"\n[batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 16\n[checkpoint]\nkeep_latest = 1\n\
    keep_best = 1\n";

struct Room {
    folder: tempfile::TempDir,
    database: Database,
    repository: Arc<Repository>,
    // What retention writes; nobody carries it out here.
    commands: mpsc::Receiver<Command>,
    _reader: Joiner,
}

fn run() -> RunId {
    "run-1".parse().unwrap()
}

fn id(generation: u64, step: u64) -> CheckpointId {
    CheckpointId { run: run(), generation: Generation(generation), step: Step(step) }
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(&folder.path().join("trireme.db")).unwrap();
        database.apply(&[Change::Run(Self::row(0, 1, 1))]).unwrap();
        let (reader, joiner) = OnThread::start("reader", database.reader().unwrap()).unwrap();
        let store = CheckpointRepository::open(folder.path().join("store").to_str().unwrap()).unwrap();
        let (commands, queue) = mpsc::channel(100);
        let repository = Arc::new(Repository::new(store, reader, commands));
        Self { folder, database, repository, commands: queue, _reader: joiner }
    }

    fn row(step: u64, attempt: u32, generation: u64) -> RunRow {
        RunRow {
            id: run(),
            name: "r".into(),
            kind: "pretrain".into(),
            status: "running".into(),
            reason: None,
            place: 1,
            cancelling: false,
            step: Step(step),
            total_steps: Step(100),
            attempt: Attempt(attempt),
            generation: Generation(generation),
            slots: 1,
            min_workers: 1,
            max_workers: 1,
            members: vec![],
            samples_digest: None,
            weights_digest: None,
            restore: None,
            parent: None,
            restarts: 0,
            diverged_at: None,
            trusted: None,
            config: CONFIG.into(),
            created_ms: 1,
            updated_ms: 1,
        }
    }

    fn commit(&mut self, attempt: u32, generation: u64, step: u64) {
        let row = CommitRow {
            run: run(),
            attempt: Attempt(attempt),
            step: Step(step),
            generation: Generation(generation),
            samples_digest: Digest::default(),
            segments: vec![],
            time_ms: 1,
        };
        self.database.apply(&[Change::Commit(row)]).unwrap();
    }

    async fn save(&self, id: &CheckpointId, eval_loss: f64) {
        let content = Bytes::from(id.to_string());
        let digest = Digest::blake3(&content);
        let file = CheckpointFile { name: "state.json".into(), bytes: content.len() as u64, blake3: digest };
        let chunks = futures::stream::iter([Ok::<_, String>(content)]);
        self.repository.store().put_file(id, &file, chunks).await.unwrap();
        let shard = Shard {
            rank: Rank(0),
            world: WorldSize(1),
            files: vec![file],
            eval_loss: Some(eval_loss),
            score: None,
            weights_digest: None,
        };
        let outcome = self.repository.store().complete_shard(id, &shard, 1).await.unwrap();
        assert!(matches!(outcome, ShardOutcome::Committed(_)));
    }

    /// Carries out what was written, and says what people were told.
    fn carry_out(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(command) = self.commands.try_recv() {
            let Command::Write { changes } = command else { continue };
            self.database.apply(&changes).unwrap();
            told.extend(changes.into_iter().filter_map(|change| match change {
                Change::Event(event) => Some(event.text),
                _ => None,
            }));
        }
        told
    }

    async fn verify(&mut self, id: &CheckpointId) -> Vec<String> {
        let problems = self.repository.store().verify(id).await.unwrap();
        self.repository.verified(id, &problems).await.unwrap();
        self.carry_out()
    }

    async fn kept(&self) -> Vec<(u64, u64)> {
        let all = self.repository.store().list(&run()).await.unwrap();
        all.iter().map(|manifest| (manifest.id.generation.0, manifest.id.step.0)).collect()
    }
}

#[tokio::test]
async fn retention_leaves_what_is_pinned() {
    let mut room = Room::new();
    for step in [10, 20, 30] {
        room.commit(1, 1, step);
        room.save(&id(1, step), 1.0 / step as f64).await;
    }
    let pin = room.repository.pin(id(1, 10)).await;
    let again = room.repository.pin(id(1, 10)).await;
    room.repository.tend(&id(1, 30)).await.unwrap();
    assert_eq!(room.kept().await, [(1, 10), (1, 30)]);
    drop(pin);
    room.repository.tend(&id(1, 30)).await.unwrap();
    assert_eq!(room.kept().await, [(1, 10), (1, 30)], "the other pin holds");
    drop(again);
    room.repository.tend(&id(1, 30)).await.unwrap();
    assert_eq!(room.kept().await, [(1, 30)]);
}

#[tokio::test]
async fn a_superseded_checkpoint_takes_no_place_from_one_that_stands() {
    let mut room = Room::new();
    for step in [10, 20, 30] {
        room.commit(1, 1, step);
    }
    room.save(&id(1, 10), 5.0).await;
    // The best one of all, but the run went back behind it and did its step again.
    room.save(&id(1, 30), 1.0).await;
    let back = Change::Attempt(AttemptRow { run: run(), attempt: Attempt(2), from_step: Step(10) });
    room.database.apply(&[Change::Run(Room::row(10, 2, 2)), back]).unwrap();
    for step in [20, 30, 40] {
        room.commit(2, 2, step);
    }
    room.save(&id(2, 20), 4.0).await;
    room.save(&id(2, 40), 6.0).await;
    // Its step is not committed yet: no restore may take it, and it takes no place either.
    room.save(&id(2, 50), 0.5).await;
    room.repository.tend(&id(2, 50)).await.unwrap();
    assert_eq!(room.kept().await, [(2, 20), (2, 40), (2, 50)]);
    let (found, notes) = room.repository.find_restore(&run(), Step(40)).await.unwrap();
    assert_eq!((found.map(|pin| pin.id().clone()), notes.len()), (Some(id(2, 40)), 0));
}

#[tokio::test]
async fn one_unreadable_file_does_not_hide_the_checkpoint_before_it() {
    let mut room = Room::new();
    for step in [10, 20] {
        room.commit(1, 1, step);
        room.save(&id(1, step), 1.0).await;
    }
    let manifest = room.folder.path().join("store/runs/run-1/checkpoints/1-20/manifest.json");
    std::fs::remove_file(&manifest).unwrap();
    std::os::unix::fs::symlink(&manifest, &manifest).unwrap();
    let (found, notes) = room.repository.find_restore(&run(), Step(20)).await.unwrap();
    assert_eq!(found.map(|pin| pin.id().clone()), Some(id(1, 10)));
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("the checkpoint at step 20 was passed over: `manifest.json`: cannot read"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_damaged_one_takes_no_place() {
    let mut room = Room::new();
    for (step, loss) in [(10, 3.0), (20, 2.0), (30, 1.0), (40, 4.0)] {
        room.commit(1, 1, step);
        room.save(&id(1, step), loss).await;
        let manifest = room.repository.store().manifest(&id(1, step)).await.unwrap();
        room.database.apply(&[Change::Checkpoint(room.repository.row(&manifest, true))]).unwrap();
    }
    // The best one of all is known to be damaged: the one that is best without it stays.
    let file = room.folder.path().join("store/runs/run-1/checkpoints/1-30/state.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "run-1/1-31").unwrap();
    let told = room.verify(&id(1, 30)).await;
    assert!(told.len() == 1 && told[0].starts_with("the checkpoint at step 30 is damaged"), "{told:?}");
    assert!(room.verify(&id(1, 30)).await.is_empty(), "people are told once");
    room.repository.tend(&id(1, 40)).await.unwrap();
    assert_eq!(room.kept().await, [(1, 20), (1, 30), (1, 40)]);
    // Put right, it takes a place again.
    std::fs::write(&file, whole).unwrap();
    assert!(room.verify(&id(1, 30)).await.is_empty());
    room.repository.tend(&id(1, 40)).await.unwrap();
    assert_eq!(room.kept().await, [(1, 30), (1, 40)]);
}

#[tokio::test]
async fn of_a_refused_checkpoint_people_are_told_once() {
    let mut room = Room::new();
    let error = CheckpointError::NotFound(id(1, 10));
    for (generation, step, events) in [(1, 10, 1), (1, 10, 0), (1, 20, 1), (1, 20, 0), (1, 10, 0), (2, 10, 1)] {
        room.repository.not_stored(&id(generation, step), &error).await;
        assert_eq!(room.carry_out().len(), events, "{generation}-{step}");
    }
    assert_eq!(room.repository.not_stored.lock().unwrap().len(), 1, "one for a run");
}

#[tokio::test]
async fn a_row_without_a_checkpoint_goes() {
    let mut room = Room::new();
    for step in [10, 20] {
        room.commit(1, 1, step);
        room.save(&id(1, step), 1.0).await;
        let manifest = room.repository.store().manifest(&id(1, step)).await.unwrap();
        room.database.apply(&[Change::Checkpoint(room.repository.row(&manifest, true))]).unwrap();
    }
    // The process ended between the deletion and the row's.
    room.repository.store().delete(&id(1, 10)).await.unwrap();
    // One that is damaged is another thing.
    std::fs::write(room.folder.path().join("store/runs/run-1/checkpoints/1-20/manifest.json"), "{").unwrap();
    let stock = room.repository.stock(&run()).await.unwrap();
    assert_eq!((stock.gone, stock.unrecorded.len()), (vec![id(1, 10)], 0));
    // The same is found by who reads all again; nobody is sent to it either.
    let mut row = Room::row(20, 1, 1);
    row.restore = Some(id(1, 10));
    room.database.apply(&[Change::Run(row)]).unwrap();
    room.repository.gone(&id(1, 20)).await.unwrap();
    assert!(room.commands.try_recv().is_err(), "it is there");
    room.repository.gone(&id(1, 10)).await.unwrap();
    let Ok(Command::Write { changes }) = room.commands.try_recv() else { panic!("nothing was written") };
    assert_eq!(changes, [Change::CheckpointDeleted(id(1, 10))]);
    let Ok(Command::Happened { event }) = room.commands.try_recv() else { panic!("control was not told") };
    let at = CheckpointAt { generation: Generation(1), step: Step(10) };
    assert_eq!(event, Event::CheckpointLost { run: run(), at });
}
