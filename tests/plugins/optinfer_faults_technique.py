"""A technique that changes nothing: its options travel inside the artifact to the `faulty` backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    return Change(format=source.format, precision=source.precision, load_options=dict(options))


technique = Technique(inputs=("torch",), output="torch", run=run)
