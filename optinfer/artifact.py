"""What a built variant is on disk. Techniques make artifacts, backends load them.

An artifact is a folder. It is written once, under a name derived from everything that shaped it, and never changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD = "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model in one format, ready to be loaded by the backends that read this format.

    Attributes:
        path: absolute folder that holds the files.
        format: `huggingface` (the user's own folder), `onnx` (model.onnx) or `openvino` (model.xml).
        precision: what the arithmetic is meant to be: `fp32`, `bf16`, `int8`.
        key: hex digest of what shaped the artifact (model, recipe, toolchain, CPU features, calibration rows).
        build_seconds: wall time of the techniques that made it; 0 for a model used as it is.
        notes: what a technique wants a person to know about this artifact.
        load_options: what the backend must do when loading, by technique (e.g. cast the weights).
    """

    path: str
    format: str
    precision: str
    key: str
    build_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    load_options: dict[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in Path(self.path).rglob("*") if f.is_file())

    def save(self, folder: Path) -> None:
        """Write the record into `folder`; its presence marks the artifact as complete."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> Artifact | None:
        """Return the artifact recorded in `folder`, or None where there is none (or an unfinished one)."""
        record = folder / RECORD
        if not record.is_file():
            return None
        raw = json.loads(record.read_text())
        found = cls(**{**raw, "notes": tuple(raw["notes"])})
        return found if Path(found.path).is_dir() else None
