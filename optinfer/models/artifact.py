"""What a built variant is on disk. Techniques make artifacts, backends load them.

An artifact is a folder. It is written once, under a name derived from everything that shaped it, and never changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optinfer.system import home

RECORD = "artifact.json"
# The main file of an artifact that a technique wrote, by format.
ENTRIES = {"onnx": "model.onnx", "openvino": "model.xml"}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model in one format, ready to be loaded by the backends that read this format.

    Attributes:
        path: absolute folder that holds the files.
        format: `torch` (what the family's own code loads), `onnx` or `openvino`.
        entry: the main file, relative to `path`; empty where the folder as a whole is loaded.
        beside: where the model is one file among others, those that belong to it (weights, description); None where
            all of the folder does.
        precision: what the arithmetic is meant to be: `fp32`, `bf16`, `fp16`, `int8`, `int4`.
        key: hex digest of what shaped the artifact (model, recipe, toolchain, CPU features, calibration rows).
        build_seconds: wall time of the techniques that made it; 0 for a model used as it is.
        notes: what a technique wants a person to know about this artifact.
        load_options: what the backend must know when loading.
        conversions: what techniques do to a torch module on load, in order: each names its `technique`.
    """

    path: str
    format: str
    entry: str = ""
    beside: tuple[str, ...] | None = None
    precision: str
    key: str
    build_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    load_options: dict[str, Any] = field(default_factory=dict)
    conversions: tuple[dict[str, Any], ...] = ()

    @property
    def file(self) -> Path:
        return Path(self.path, self.entry)

    @property
    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.files)

    @property
    def files(self) -> list[Path]:
        """Every file of the model: the folder's, or the entry and those beside it that belong to it."""
        if self.beside is not None:
            return [self.file, *(Path(self.path, name) for name in self.beside)]
        return [f for f in Path(self.path).rglob("*") if f.is_file() and f.name != RECORD]

    def save(self, folder: Path) -> None:
        """Write the record into `folder`; its presence marks the artifact as complete."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> Artifact | None:
        """Return the artifact recorded in `folder`, None where there is none, or its record is cut short or garbage."""
        return home.read_json(folder / RECORD, lambda raw: cls._placed(raw, folder))

    @classmethod
    def _placed(cls, raw: dict[str, Any], folder: Path) -> Artifact:
        # Its own files, and those of the steps before it, wherever the home was moved or copied to since.
        own = {"path": str(folder)} if Path(raw["path"]).name == folder.name else {}
        steps = [{**one, "folder": str(folder.with_name(Path(one["folder"]).name))} for one in raw["conversions"]]
        return cls.from_dict({**raw, **own, "conversions": steps})

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Artifact:
        """Rebuild an artifact from `dataclasses.asdict` that went through JSON."""
        beside = None if raw["beside"] is None else tuple(raw["beside"])
        lists = {"beside": beside, "notes": tuple(raw["notes"]), "conversions": tuple(raw["conversions"])}
        return cls(**{**raw, **lists})
