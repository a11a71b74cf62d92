"""What the commands answer and the files say, as frozen types that text, JSON and MLflow are made from."""
