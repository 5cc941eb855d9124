use super::*;
use crate::CheckpointId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{Attempt, Digest, Generation, RunId, Segment, SlotId, Step};

fn run_id(name: &str) -> RunId {
    name.parse().unwrap()
}

pub(crate) fn run_row(name: &str) -> RunRow {
    RunRow {
        id: run_id(name),
        name: "quick".into(),
        kind: "pretrain".into(),
        status: "queued".into(),
        reason: None,
        place: 4,
        cancelling: false,
        step: Step(0),
        total_steps: Step(100),
        attempt: Attempt(1),
        generation: Generation(0),
        slots: 4,
        min_workers: 1,
        max_workers: 4,
        members: vec![],
        samples_digest: None,
        weights_digest: None,
        restore: None,
        parent: None,
        restarts: 0,
        diverged_at: None,
        trusted: None,
        config: "[run]\n".into(),
        created_ms: 1_000,
        updated_ms: 1_000,
    }
}

fn commit_row(attempt: u32, step: u64, generation: u64) -> CommitRow {
    CommitRow {
        run: run_id("a"),
        attempt: Attempt(attempt),
        step: Step(step),
        generation: Generation(generation),
        samples_digest: Digest::blake3(&[attempt as u8, step as u8]),
        segments: vec![Segment { slot: SlotId(0), turn: step, start: 0, end: 8, total: 16 }],
        time_ms: 5_000 + step as i64,
    }
}

fn metric_row(attempt: u32, step: u64, key: &str, value: f64) -> MetricRow {
    MetricRow { run: run_id("a"), attempt: Attempt(attempt), step: Step(step), key: key.into(), value, time_ms: 7 }
}

fn attempt_row(attempt: u32, from_step: u64) -> Change {
    Change::Attempt(AttemptRow { run: run_id("a"), attempt: Attempt(attempt), from_step: Step(from_step) })
}

fn all_metrics() -> MetricQuery {
    MetricQuery { run: run_id("a"), keys: vec![], from_step: Step(0), superseded: false }
}

/// A database with run `a` in generation 3.
fn database() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Database::open(&folder.path().join("trireme.db")).unwrap();
    let run = RunRow { generation: Generation(3), ..run_row("a") };
    database.apply(&[Change::Run(run), attempt_row(1, 0)]).unwrap();
    (folder, database)
}

fn rule(result: Result<(), DatabaseError>) -> String {
    match result {
        Err(error @ DatabaseError::Invariant { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn it_is_durable_by_its_settings() {
    let (_folder, database) = database();
    let setting = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
    assert_eq!(setting("journal_mode").unwrap(), "wal");
    let number = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    assert_eq!(number("synchronous").unwrap(), 2, "FULL");
    assert_eq!(number("foreign_keys").unwrap(), 1);
}

#[test]
fn a_run_comes_back_as_it_was_written() {
    let (folder, mut database) = database();
    let id = |run: &str| CheckpointId { run: run_id(run), generation: Generation(2), step: Step(50) };
    let full = RunRow {
        status: "running".into(),
        reason: Some("a worker was lost".into()),
        cancelling: true,
        members: vec![MemberRow {
            worker: "w-1".parse().unwrap(),
            slots: vec![SlotId(0), SlotId(1)],
            since: Generation(2),
        }],
        samples_digest: Some(Digest::blake3(b"s")),
        weights_digest: Some(Digest::blake3(b"w")),
        restore: Some(id("b")),
        parent: Some(id("a")),
        restarts: 2,
        diverged_at: Some(Step(60)),
        trusted: Some(Step(50)),
        ..run_row("b")
    };
    database.apply(&[Change::Run(full.clone())]).unwrap();
    drop(database);
    let mut database = Database::open(&folder.path().join("trireme.db")).unwrap();
    assert_eq!(database.run(&full.id).unwrap(), Some(full.clone()));
    assert_eq!(database.runs().unwrap().len(), 2);
    assert_eq!(database.run(&run_id("nobody")).unwrap(), None);

    // An update leaves alone what is written once.
    let changed = RunRow {
        config: "other".into(),
        created_ms: 9,
        name: "other".into(),
        status: "failed".into(),
        restore: None,
        ..full.clone()
    };
    database.apply(&[Change::Run(changed)]).unwrap();
    let expected = RunRow { status: "failed".into(), restore: None, ..full };
    assert_eq!(database.run(&expected.id).unwrap(), Some(expected));
}

#[test]
fn nothing_goes_back() {
    let (_folder, mut database) = database();
    let run = RunRow { generation: Generation(3), attempt: Attempt(2), ..run_row("a") };
    database.apply(&[Change::Run(run.clone()), attempt_row(2, 10)]).unwrap();
    let back = RunRow { generation: Generation(2), ..run.clone() };
    assert!(rule(database.apply(&[Change::Run(back)])).contains("generation went back"));
    let back = RunRow { attempt: Attempt(1), ..run.clone() };
    assert!(rule(database.apply(&[Change::Run(back)])).contains("attempt went back"));
    assert!(rule(database.apply(&[attempt_row(2, 11)])).contains("started a second time"));
    database.apply(&[attempt_row(2, 10)]).unwrap();
    assert!(rule(database.apply(&[Change::Run(RunRow { status: "asleep".into(), ..run })])).contains("status"));
}

#[test]
fn a_step_is_committed_once() {
    let (_folder, mut database) = database();
    let commit = Change::Commit(commit_row(1, 1, 2));
    database.apply(&[commit.clone(), commit.clone()]).unwrap();
    database.apply(std::slice::from_ref(&commit)).unwrap();
    let other = CommitRow { samples_digest: Digest::default(), ..commit_row(1, 1, 2) };
    assert!(rule(database.apply(&[Change::Commit(other)])).contains("committed twice"));
    let other = CommitRow { generation: Generation(3), ..commit_row(1, 1, 2) };
    assert!(rule(database.apply(&[Change::Commit(other)])).contains("committed twice"));
    let message = rule(database.apply(&[Change::Commit(commit_row(1, 2, 1))]));
    assert!(message.contains("generation that is over") && message.contains("step 2"), "{message}");
    assert!(rule(database.apply(&[Change::Commit(commit_row(1, 2, 4))])).contains("never had"));
    assert_eq!(database.commits(&run_id("a"), Step(0), 9).unwrap(), [commit_row(1, 1, 2)]);
}

#[test]
fn a_commit_advances_its_run() {
    let (_folder, mut database) = database();
    let run = RunRow { generation: Generation(3), restarts: 2, ..run_row("a") };
    database
        .apply(&[Change::Run(run), Change::Commit(commit_row(1, 1, 3)), Change::Commit(commit_row(1, 2, 3))])
        .unwrap();
    let expected = commit_row(1, 2, 3);
    let read = database.run(&run_id("a")).unwrap().unwrap();
    assert_eq!((read.step, read.samples_digest, read.restarts), (Step(2), Some(expected.samples_digest), 0));
    assert_eq!(read.updated_ms, expected.time_ms);
    // A repeated batch does not take it back.
    database.apply(&[Change::Commit(commit_row(1, 1, 3))]).unwrap();
    assert_eq!(database.run(&run_id("a")).unwrap().unwrap(), read);
}

#[test]
fn a_rewind_supersedes_commits_and_keeps_them() {
    let (_folder, mut database) = database();
    let first: Vec<_> = (1..=6).map(|step| Change::Commit(commit_row(1, step, 1))).collect();
    let run = RunRow { generation: Generation(3), attempt: Attempt(2), ..run_row("a") };
    let second: Vec<_> = (5..=7).map(|step| Change::Commit(commit_row(2, step, 2))).collect();
    database.apply(&first).unwrap();
    database.apply(&[Change::Run(run), attempt_row(2, 4)]).unwrap();
    let steps = |rows: Vec<CommitRow>| rows.iter().map(|row| (row.step.0, row.attempt.0)).collect::<Vec<_>>();
    assert_eq!(steps(database.commits(&run_id("a"), Step(0), 99).unwrap()), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    database.apply(&second).unwrap();
    let expected = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2)];
    assert_eq!(steps(database.commits(&run_id("a"), Step(0), 99).unwrap()), expected);
    assert_eq!(steps(database.commits(&run_id("a"), Step(3), 2).unwrap()), [(4, 1), (5, 2)]);
    let kept: i64 = database.connection.query_row("SELECT count(*) FROM commits", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 9);
}

#[test]
fn metrics_are_written_once_and_may_be_strange() {
    let (_folder, mut database) = database();
    for value in [1.0, f64::INFINITY, f64::NAN] {
        database.apply(&[Change::Metric(metric_row(1, 3, "loss", value))]).unwrap();
    }
    database.apply(&[Change::Metric(metric_row(1, 3, "grad", f64::NEG_INFINITY))]).unwrap();
    let rows = database.metrics(&all_metrics(), None, 9).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].key.as_str(), rows[0].value), ("grad", f64::NEG_INFINITY));
    assert!(rows[1].value.is_nan());
    assert!(database.latest_metrics(&run_id("a")).unwrap()[1].value.is_nan());
}

#[test]
fn a_value_measured_again_at_the_step_of_a_rewind_replaces_the_old_one() {
    let (_folder, mut database) = database();
    database.apply(&[Change::Metric(metric_row(1, 4, "eval", 2.0)), attempt_row(2, 4)]).unwrap();
    assert_eq!(database.metrics(&all_metrics(), None, 9).unwrap(), [metric_row(1, 4, "eval", 2.0)]);
    database.apply(&[Change::Metric(metric_row(2, 4, "eval", 3.0))]).unwrap();
    assert_eq!(database.metrics(&all_metrics(), None, 9).unwrap(), [metric_row(2, 4, "eval", 3.0)]);
    let with_old = MetricQuery { superseded: true, ..all_metrics() };
    assert_eq!(database.metrics(&with_old, None, 9).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Against the definition, written down a second time: whatever was written, rewound and written again.
    #[test]
    fn visible_metrics_are_those_no_later_attempt_superseded(
        attempts in prop::collection::vec((0_u64..8, prop::collection::vec((0_u64..8, 0_usize..3, -9.0..9.0), 0..12)), 1..5),
        keys in prop::collection::vec(0_usize..3, 0..3),
        from_step in 0_u64..8,
        superseded: bool,
        page in 1_usize..6,
    ) {
        const KEYS: [&str; 3] = ["eval/loss", "loss", "tokens"];
        let (_folder, mut database) = database();
        let mut written = BTreeMap::new();
        let mut starts = vec![];
        for (index, (from, rows)) in attempts.iter().enumerate() {
            let attempt = index as u32 + 1;
            let from = if index == 0 { 0 } else { *from };
            starts.push((attempt, from));
            let mut batch = vec![attempt_row(attempt, from)];
            for (step, key, value) in rows {
                let row = metric_row(attempt, *step, KEYS[*key], *value);
                batch.push(Change::Metric(row.clone()));
                written.insert((*step, KEYS[*key], attempt), row);
            }
            database.apply(&batch).unwrap();
        }
        let visible = |step: u64, key: &str, attempt: u32| {
            !starts.iter().any(|(later, from)| *later > attempt && *from < step)
                && !written.keys().any(|(s, k, later)| *s == step && *k == key && *later > attempt)
        };
        let wanted: Vec<&str> = keys.iter().map(|key| KEYS[*key]).collect();
        let expected: Vec<_> = written
            .iter()
            .filter(|((step, key, attempt), _)| {
                *step >= from_step && (wanted.is_empty() || wanted.contains(key))
                    && (superseded || visible(*step, key, *attempt))
            })
            .map(|(_, row)| row.clone())
            .collect();
        let query = MetricQuery {
            run: run_id("a"),
            keys: wanted.iter().map(|key| (*key).to_owned()).collect(),
            from_step: Step(from_step),
            superseded,
        };
        let (mut paged, mut after) = (vec![], None);
        loop {
            let rows = database.metrics(&query, after.as_ref(), page).unwrap();
            let last = rows.len() < page;
            after = rows.last().map(MetricRow::position);
            paged.extend(rows);
            if last {
                break;
            }
        }
        prop_assert_eq!(paged, expected);

        let mut latest = BTreeMap::new();
        for ((step, key, attempt), row) in &written {
            if visible(*step, key, *attempt) {
                latest.insert(*key, row.clone());
            }
        }
        prop_assert_eq!(database.latest_metrics(&run_id("a")).unwrap(), latest.into_values().collect::<Vec<_>>());
    }
}

#[test]
fn the_newest_run_of_a_name_that_has_a_checkpoint_is_found() {
    let (_folder, mut database) = database();
    let found = |database: &Database| database.newest_with_checkpoint("quick").unwrap().map(|run| run.id.to_string());
    let run = |name: &str, step, created_ms| {
        Change::Run(RunRow { step: Step(step), created_ms, generation: Generation(1), ..run_row(name) })
    };
    // All but `d` have one name; `c` is the newest.
    let other = RunRow { name: "other".into(), created_ms: 5_000, ..run_row("d") };
    database.apply(&[run("b", 20, 2_000), run("c", 0, 3_000), Change::Run(other)]).unwrap();
    assert_eq!(found(&database), None);
    let saved = |run: &str, step, damaged| {
        Change::Checkpoint(CheckpointRow {
            id: CheckpointId { run: run_id(run), generation: Generation(1), step: Step(step) },
            path: String::new(),
            bytes: 1,
            verified: false,
            damaged,
            eval_loss: None,
            score: None,
            weights_digest: None,
            created_ms: 1,
        })
    };
    let checkpoint = |run: &str, step| saved(run, step, false);
    let commit = |run: &str, step| Change::Commit(CommitRow { run: run_id(run), ..commit_row(1, step, 1) });
    let attempt = |run: &str, attempt, from_step| {
        Change::Attempt(AttemptRow { run: run_id(run), attempt: Attempt(attempt), from_step: Step(from_step) })
    };
    database.apply(&[attempt("b", 1, 0), commit("b", 10), attempt("c", 1, 0)]).unwrap();
    database.apply(&[checkpoint("a", 0), checkpoint("b", 10), checkpoint("d", 0)]).unwrap();
    assert_eq!(found(&database).as_deref(), Some("b"));
    // One that is ahead of what `c` has committed, which then commits it.
    database.apply(&[checkpoint("c", 10)]).unwrap();
    assert_eq!(found(&database).as_deref(), Some("b"));
    database.apply(&[commit("c", 10)]).unwrap();
    assert_eq!(found(&database).as_deref(), Some("c"));
    // It has gone back from there; and of `b` the checkpoint is damaged.
    database.apply(&[attempt("c", 2, 3)]).unwrap();
    assert_eq!(found(&database).as_deref(), Some("b"));
    database.apply(&[saved("b", 10, true)]).unwrap();
    assert_eq!(found(&database).as_deref(), Some("a"));
}

#[test]
fn steps_that_an_attempt_superseded_are_not_counted() {
    let (_folder, mut database) = database();
    let count = |database: &Database| database.metric_count(&run_id("a"), "train/skipped").unwrap();
    let skipped = |attempt, step| Change::Metric(metric_row(attempt, step, "train/skipped", 1.0));
    let another = Change::Metric(metric_row(1, 6, "loss", 1.0));
    database.apply(&[skipped(1, 1), skipped(1, 4), skipped(1, 5), another]).unwrap();
    assert_eq!(count(&database), 3);
    database.apply(&[attempt_row(2, 3), skipped(2, 5)]).unwrap();
    assert_eq!(count(&database), 2, "steps 1 and 5");
    assert_eq!(database.metric_count(&run_id("b"), "train/skipped").unwrap(), 0);
}

#[test]
fn events_and_checkpoints_come_in_order() {
    let (_folder, mut database) = database();
    let event = |text: &str| Change::Event(EventRow { run: run_id("a"), time_ms: 1, text: text.into() });
    database.apply(&[event("one"), event("two"), event("three")]).unwrap();
    let texts: Vec<_> = database.events(&run_id("a"), 2).unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(texts, ["two", "three"]);

    let row = |generation, step| CheckpointRow {
        id: CheckpointId { run: run_id("a"), generation: Generation(generation), step: Step(step) },
        path: "/store".into(),
        bytes: 12,
        verified: false,
        damaged: false,
        eval_loss: Some(2.5),
        score: Some(0.75),
        weights_digest: Some(Digest::blake3(b"w")),
        created_ms: 3,
    };
    let rows = [row(2, 20), row(10, 15), row(2, 9)];
    database.apply(&rows.clone().map(Change::Checkpoint)).unwrap();
    let [a, b, c] = rows;
    let verified = CheckpointRow { verified: true, damaged: true, ..b };
    database.apply(&[Change::Checkpoint(verified.clone())]).unwrap();
    assert_eq!(database.checkpoints(&run_id("a")).unwrap(), [c, a.clone(), verified.clone()]);
    database.apply(&[Change::CheckpointDeleted(row(2, 9).id)]).unwrap();
    assert_eq!(database.checkpoints(&run_id("a")).unwrap(), [a, verified]);
}

#[test]
fn a_batch_is_written_whole_or_not_at_all() {
    let (_folder, mut database) = database();
    let good = Change::Metric(metric_row(1, 1, "loss", 1.0));
    let stranger = Change::Event(EventRow { run: run_id("nobody"), time_ms: 1, text: "?".into() });
    assert!(rule(database.apply(&[good.clone(), stranger])).contains("no such run"));
    assert!(database.metrics(&all_metrics(), None, 9).unwrap().is_empty());
    let huge = Change::Metric(metric_row(1, u64::MAX, "loss", 1.0));
    let error = database.apply(&[good.clone(), huge]).unwrap_err();
    assert!(matches!(error, DatabaseError::TooLarge { value: u64::MAX }), "{error}");
    assert!(database.metrics(&all_metrics(), None, 9).unwrap().is_empty());
    database.apply(&[good]).unwrap();
    assert_eq!(database.metrics(&all_metrics(), None, usize::MAX).unwrap().len(), 1);
}

#[test]
fn a_second_connection_sees_what_was_applied_and_cannot_write() {
    let (_folder, mut database) = database();
    let reader = database.reader().unwrap();
    assert!(reader.latest_metrics(&run_id("a")).unwrap().is_empty());
    database.apply(&[Change::Metric(metric_row(1, 1, "loss", 1.0))]).unwrap();
    assert_eq!(reader.latest_metrics(&run_id("a")).unwrap(), [metric_row(1, 1, "loss", 1.0)]);
    assert!(reader.connection.execute("DELETE FROM metrics", []).is_err());
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let (_folder, mut database) = database();
    // SQLite's own limit fails the way a full disk does.
    let pages: i64 = database.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    database.connection.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(())).unwrap();
    let many: Vec<_> = (0..5_000).map(|step| Change::Metric(metric_row(1, step, "loss", 1.0))).collect();
    let error = database.apply(&many).unwrap_err();
    assert!(matches!(error, DatabaseError::Full { .. }), "{error}");
    assert!(error.to_string().contains("trireme.db is full: free some space"), "{error}");
    assert!(database.metrics(&all_metrics(), None, 9).unwrap().is_empty());
    database.connection.pragma_update_and_check(None, "max_page_count", 100_000, |_| Ok(())).unwrap();
    database.apply(&many).unwrap();
    assert_eq!(database.metrics(&all_metrics(), None, 9_999).unwrap().len(), 5_000);
}

#[test]
fn an_older_file_is_brought_up_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let mut connection = Connection::open(&path).unwrap();
    let one = "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (7);";
    let two = "ALTER TABLE t ADD COLUMN b INTEGER DEFAULT 8;";
    let count = |connection: &Connection| -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    migrate::migrate(&mut connection, &path, &[one]).unwrap();
    assert_eq!(count(&connection), 1);
    // One that fails half way leaves the file as it was.
    let bad = "ALTER TABLE t ADD COLUMN b INTEGER; INSERT INTO nowhere VALUES (1);";
    let error = migrate::migrate(&mut connection, &path, &[one, bad]).unwrap_err();
    assert!(error.to_string().contains("from version 1 to 2"), "{error}");
    assert_eq!(count(&connection), 1);
    migrate::migrate(&mut connection, &path, &[one, two]).unwrap();
    migrate::migrate(&mut connection, &path, &[one, two]).unwrap();
    assert_eq!(count(&connection), 2);
    let row = connection.query_row("SELECT a, b FROM t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(row, (7, 8));
}

#[test]
fn every_released_version_opens() {
    for version in 0..=migrate::MIGRATIONS.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trireme.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate::migrate(&mut connection, &path, &migrate::MIGRATIONS[..version]).unwrap();
        drop(connection);
        let mut database = Database::open(&path).unwrap();
        database.apply(&[Change::Run(run_row("a"))]).unwrap();
    }
}

#[test]
fn a_run_of_the_first_version_has_not_diverged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trireme.db");
    let mut connection = Connection::open(&path).unwrap();
    migrate::migrate(&mut connection, &path, &migrate::MIGRATIONS[..1]).unwrap();
    let row = "
        INSERT INTO runs VALUES (
            'a', 'quick', 'pretrain', 'queued', NULL, 4, 0, 0, 100, 1, 0, 4, 1, 4, '[]', NULL, NULL, NULL, NULL, NULL,
            NULL, NULL, NULL, 0, '[run]' || char(10), 1000, 1000
        )";
    connection.execute(row, []).unwrap();
    drop(connection);
    let database = Database::open(&path).unwrap();
    assert_eq!(database.run(&run_id("a")).unwrap(), Some(run_row("a")));
}

#[test]
fn files_that_are_not_ours_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trireme.db");
    drop(Database::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Database::open(&path).unwrap_err();
    assert!(matches!(error, DatabaseError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("run the newer Trireme that wrote it"), "{error}");

    let path = folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE birds (name TEXT)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Database::open(&path).unwrap_err();
    assert!(matches!(error, DatabaseError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = folder.path().join("text.db");
    std::fs::write(&path, "no database at all, but long enough to be looked at ".repeat(20)).unwrap();
    let error = Database::open(&path).unwrap_err();
    assert!(error.to_string().contains("text.db"), "{error}");

    let error = Database::open(&folder.path().join("missing/trireme.db")).unwrap_err();
    assert!(matches!(error, DatabaseError::Open { .. }), "{error}");
}
