"""What MLflow loads for a model that `optinfer optimize --register` logged: a replica behind `predict`.

Input: a data frame with a column per role of the family. Output: the columns that the family adds, one row for each
row given; a row that cannot be scored is empty there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from optinfer.inference.canaries import require_files
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact


class RegisteredModel(PythonModel):  # type: ignore[misc]
    """Loads the packed replica; its files lie in the artifact folder `optinfer`."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["optinfer"])
        raw = json.loads((folder / "settings.json").read_text())
        model, artifact = (_placed(raw.pop(name), folder) for name in ("model", "artifact"))
        files = raw.pop("files")
        settings = ReplicaSettings(**raw, model=model, artifact=artifact)
        require_files(settings, files)
        self._replica = Replica(settings)

    # Without types: MLflow would take them for a schema of single values, in the place of the model's signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        rows = pa.Table.from_pandas(model_input, preserve_index=False)
        scored = self._replica.score(rows)
        answers = scored.added.to_pandas()
        answers.index = scored.kept
        return answers.reindex(range(rows.num_rows))


def _placed(raw: dict[str, Any], folder: Path) -> Artifact:
    artifact = Artifact.from_dict(raw)
    conversions = tuple({**c, "folder": str(folder / c["folder"])} for c in artifact.conversions)
    return replace(artifact, path=str(folder / artifact.path), conversions=conversions)


set_model(RegisteredModel())
