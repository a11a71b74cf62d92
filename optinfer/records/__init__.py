"""What the commands answer, as values that text, JSON and MLflow are made from."""
