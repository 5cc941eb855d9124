-- Several runs that were submitted together, to be compared. A sweep is written with all of its runs or not at all.

CREATE TABLE sweeps (
    name TEXT PRIMARY KEY,
    -- Of the config with its [sweep]: the same name with another digest is another sweep.
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    metric TEXT NOT NULL,
    config TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER sweep_is_final BEFORE UPDATE ON sweeps WHEN NEW.digest <> OLD.digest
BEGIN
    SELECT RAISE(ABORT, 'invariant: a sweep was submitted a second time, with another config');
END;

CREATE TABLE sweep_runs (
    sweep TEXT NOT NULL REFERENCES sweeps (name),
    place INTEGER NOT NULL,
    run TEXT NOT NULL UNIQUE REFERENCES runs (id),
    combination INTEGER NOT NULL,
    -- JSON: [["key", "value"]], what this combination sets.
    settings TEXT NOT NULL,
    seed INTEGER NOT NULL,
    fold INTEGER,
    PRIMARY KEY (sweep, place)
) STRICT, WITHOUT ROWID;
