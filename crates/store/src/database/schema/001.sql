-- Text identifiers are kept as text, digests as 32-byte blobs, times as milliseconds since 1970 (UTC).
-- What must never happen is refused here, whatever the code above believes: a generation or an attempt that goes back,
-- a commit by a generation that is not known or older than that of the step before, a step that is committed twice with
-- different samples.

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('pretrain', 'finetune')),
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled', 'interrupted')),
    reason TEXT,
    place INTEGER NOT NULL,
    cancelling INTEGER NOT NULL CHECK (cancelling IN (0, 1)),
    step INTEGER NOT NULL,
    total_steps INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    min_workers INTEGER NOT NULL,
    max_workers INTEGER NOT NULL,
    -- JSON: [{"worker", "slots", "since"}], in rank order.
    members TEXT NOT NULL,
    samples_digest BLOB CHECK (length(samples_digest) = 32),
    weights_digest BLOB CHECK (length(weights_digest) = 32),
    restore_run TEXT,
    restore_generation INTEGER,
    restore_step INTEGER,
    parent_run TEXT,
    parent_generation INTEGER,
    parent_step INTEGER,
    restarts INTEGER NOT NULL,
    config TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER run_generation_only_grows BEFORE UPDATE ON runs WHEN NEW.generation < OLD.generation
BEGIN
    SELECT RAISE(ABORT, 'invariant: the run''s generation went back');
END;

CREATE TRIGGER run_attempt_only_grows BEFORE UPDATE ON runs WHEN NEW.attempt < OLD.attempt
BEGIN
    SELECT RAISE(ABORT, 'invariant: the run''s attempt went back');
END;

CREATE TABLE attempts (
    run TEXT NOT NULL REFERENCES runs (id),
    attempt INTEGER NOT NULL,
    from_step INTEGER NOT NULL,
    PRIMARY KEY (run, attempt)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_starts_once BEFORE UPDATE ON attempts WHEN NEW.from_step <> OLD.from_step
BEGIN
    SELECT RAISE(ABORT, 'invariant: an attempt started a second time, from another step');
END;

CREATE TABLE commits (
    run TEXT NOT NULL REFERENCES runs (id),
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    samples_digest BLOB NOT NULL CHECK (length(samples_digest) = 32),
    segments BLOB NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (run, step, attempt)
) STRICT, WITHOUT ROWID;

-- A survivor's report of an older generation may still be the first of its step, so that the run's own generation is
-- only an upper bound.
CREATE TRIGGER commit_by_a_known_generation BEFORE INSERT ON commits
WHEN NEW.generation > (SELECT generation FROM runs WHERE id = NEW.run)
BEGIN
    SELECT RAISE(ABORT, 'invariant: a commit by a generation that the run never had');
END;

CREATE TRIGGER commit_generation_only_grows BEFORE INSERT ON commits
WHEN NEW.generation < (
    SELECT generation FROM commits WHERE run = NEW.run AND step = NEW.step - 1 AND attempt = NEW.attempt
)
BEGIN
    SELECT RAISE(ABORT, 'invariant: a commit by a generation that is over');
END;

CREATE TRIGGER commit_is_final BEFORE UPDATE ON commits
WHEN NEW.samples_digest <> OLD.samples_digest OR NEW.segments <> OLD.segments OR NEW.generation <> OLD.generation
BEGIN
    SELECT RAISE(ABORT, 'invariant: a step was committed twice, with different samples or by two generations');
END;

CREATE TABLE metrics (
    run TEXT NOT NULL REFERENCES runs (id),
    step INTEGER NOT NULL,
    key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    -- NULL stands for NaN, which SQLite cannot hold.
    value REAL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (run, step, key, attempt)
) STRICT, WITHOUT ROWID;

CREATE INDEX metrics_by_key ON metrics (run, key, step);

CREATE TABLE checkpoints (
    run TEXT NOT NULL REFERENCES runs (id),
    generation INTEGER NOT NULL,
    step INTEGER NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)),
    eval_loss REAL,
    weights_digest BLOB CHECK (length(weights_digest) = 32),
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (run, generation, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id),
    time_ms INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE INDEX events_by_run ON events (run, number);
