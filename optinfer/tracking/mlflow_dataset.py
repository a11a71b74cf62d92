"""A table as MLflow knows datasets: where it lies, in a form that `mlflow.data.get_source` opens, columns and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optinfer.tracking.events import Dataset

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# Limits of MLflow's: of a digest, and of all columns' types.
_DIGEST, _SCHEMA = 36, 65535
# Arrow's name of a type -> MLflow's; what is not here is `any` there.
_TYPES = {
    "bool": "boolean", "int8": "integer", "int16": "integer", "int32": "integer", "uint8": "integer",
    "uint16": "integer", "int64": "long", "uint32": "long", "uint64": "long", "float": "float", "halffloat": "float",
    "double": "double", "string": "string", "large_string": "string", "string_view": "string", "binary": "binary",
    "large_binary": "binary",
}  # fmt: skip


def as_input(dataset: Dataset) -> DatasetInput:
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    scheme = dataset.source.partition("://")[0] if "://" in dataset.source else "local"
    columns = json.dumps({"mlflow_colspec": [_column(name, kind) for name, kind in dataset.columns.items()]})
    return DatasetInput(
        MlflowDataset(
            name=dataset.name,
            digest=dataset.digest[:_DIGEST],
            source_type="local" if scheme == "file" else scheme,
            source=json.dumps({"uri": dataset.source}),
            schema=columns if dataset.columns and len(columns) <= _SCHEMA else None,
            profile=None if dataset.rows is None else json.dumps({"num_rows": dataset.rows}),
        ),
        [InputTag("mlflow.data.context", dataset.context)],
    )


def _column(name: str, kind: str) -> Mapping[str, Any]:
    if kind.startswith(("timestamp", "date")):
        return {"name": name, "type": "datetime", "required": False}
    item = kind.rpartition("list<")[2].partition(": ")[2].partition(">")[0].partition(" ")[0]
    if "list<" in kind and item in _TYPES:
        return {"name": name, "type": "array", "items": {"type": _TYPES[item]}, "required": False}
    return {"name": name, "type": _TYPES.get(kind, "any"), "required": False}
