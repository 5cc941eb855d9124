-- Damage that was found must not be forgotten: what is damaged takes no place in retention.

ALTER TABLE checkpoints ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0 CHECK (damaged IN (0, 1));
