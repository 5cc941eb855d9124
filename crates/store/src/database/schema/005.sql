-- What a checkpoint is worth by the metric that tells the best one (eval.best_metric).

ALTER TABLE checkpoints ADD COLUMN score REAL;
