"""MLflow's model registry: a variant logged as a model that any client can load."""
