"""MLflow: its store, the feed from a run's journal, and the repair of runs whose runner died."""
