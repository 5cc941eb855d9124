-- A run that diverged must not forget it: where, and up to which step its states are to be trusted.

ALTER TABLE runs ADD COLUMN diverged_at INTEGER;
ALTER TABLE runs ADD COLUMN trusted INTEGER;
