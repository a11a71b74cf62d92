"""Which version of a registered model a job is about: an alias is asked for once, and moves nothing afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from optinfer.config import MODEL_VERSION, ExperimentConfig, JobConfig, is_registered
from optinfer.errors import ConfigError, redact, without_secrets
from optinfer.records.model_version import ModelVersion
from optinfer.system import home

if TYPE_CHECKING:
    from mlflow import MlflowClient


def pinned(config: JobConfig) -> tuple[JobConfig, ModelVersion | None]:
    """Return the job with the version that its model's alias (or `latest`) stands for now, and that version.

    It takes the alias's place in `model.path`, and the place of `{model_version}` in `sink.path`; so do the versions of
    an experiment's arms in theirs. None for a model that is in no registry.

    Raises:
        ConfigError: there is no such version, or the registry cannot be asked.
    """
    tracking = config.tracking.uri or home.default_tracking_uri()
    config = config.model_copy(update={"experiment": _with_arms(config, tracking)})
    if not is_registered(config.model.path):
        return config, None
    with asking(config.model.path, tracking):
        version = version_of(client(tracking), config.model.path)
    model = config.model.model_copy(update={"path": version.uri})
    sink = config.sink.model_copy(update={"path": config.sink.path.replace(MODEL_VERSION, version.version)})
    return config.model_copy(update={"model": model, "sink": sink}), version


def _with_arms(config: JobConfig, tracking: str) -> ExperimentConfig:
    arms = dict(config.experiment.arms)
    for name, arm in arms.items():
        if arm.model and is_registered(arm.model):
            with asking(arm.model, tracking):
                arms[name] = arm.model_copy(update={"model": version_of(client(tracking), arm.model).uri})
    return config.experiment.model_copy(update={"arms": arms})


def named(path: str) -> str:
    """Return the name of the registered model that a path is about; "" where it is about none."""
    rest = path.removeprefix("models:/")
    if not is_registered(path):
        return ""
    return rest.partition("/")[0] if "/" in rest else rest.rpartition("@")[0]


def client(tracking: str) -> MlflowClient:
    """Return what asks the registry that belongs to a store."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or tracking)


def version_of(registry: MlflowClient, uri: str) -> ModelVersion:
    """Return the version that `models:/NAME@ALIAS`, `models:/NAME/latest` or `models:/NAME/3` stands for now."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    name, number = get_model_name_and_version(registry, uri)
    created = registry.get_model_version(name, number).creation_timestamp
    return ModelVersion(name=name, version=str(number), created=created)


@contextlib.contextmanager
def asking(path: str, tracking: str) -> Iterator[None]:
    """Turn what MLflow raises inside a `with` block into an error that says what to check."""
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"model.path {path} cannot be fetched from {redact(tracking)}: {without_secrets(tracking, str(error))}; "
            "check the name, and tracking.uri or MLFLOW_TRACKING_URI"
        ) from error
