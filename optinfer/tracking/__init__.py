"""What happened, as values that add up, written to a journal first and to MLflow from there."""
