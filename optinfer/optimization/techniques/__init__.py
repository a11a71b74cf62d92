"""Offline changes to a model. One file a technique; this is the contract between them and the rest.

A technique's module holds `technique = Technique(...)`, and is cheap to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from optinfer.backends.torch import converted
from optinfer.families import Arrays, Family, Features
from optinfer.models.artifact import Artifact
from optinfer.plugins import Kind


@dataclass(frozen=True)
class BuildContext:
    """What a technique may use besides the artifact: the family (to load and trace) and calibration rows."""

    family: Family
    calibration: Features | None

    def module(self, source: Artifact, device: str = "cpu") -> Any:
        """Return the torch module of an artifact of format `torch`, in eval mode, what it converts on load included."""
        return converted(source, self.family.load_module, device)

    def calibration_batches(self, rows: int) -> Iterator[Arrays]:
        """Yield model inputs for up to `rows` calibration rows, one row each, so that no padding is calibrated on."""
        if self.calibration is None:
            return
        usable = [i for i in range(self.calibration.rows) if i not in self.calibration.rejected][:rows]
        for row in usable:
            yield self.calibration.collate(np.array([row]))


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a technique made.

    Attributes:
        format: of the files in `out`, or of the source where it wrote none.
        precision: what the arithmetic is now meant to be.
        load_options: what the backend must know when loading.
        convert: plain options for this technique's `convert`, which also gets its `folder`; None converts nothing.
        notes: what a person should know about the artifact.
    """

    format: str
    precision: str
    load_options: dict[str, Any] = field(default_factory=dict)
    convert: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


class Run(Protocol):
    """Changes a model."""

    def __call__(self, source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
        """Write what it makes of `source` into the empty folder `out`, and say what that is."""


@dataclass(frozen=True, kw_only=True)
class Technique:
    """An offline change.

    Attributes:
        inputs: formats of artifacts that it takes; `output` is the one that it gives.
        run: makes the change.
        requires: modules that must be installed; `extra` of optinfer brings them.
        calibrates: the job's rows shape the result.
        defaults: options, each with what it is where nobody says.
        draft: options with which the result runs as fast, is made sooner, and answers worse: enough for a probe.
        convert: (torch module, what the change recorded, device) -> the module, for a change that is made whenever the
            model is loaded.
    """

    inputs: tuple[str, ...]
    output: str
    run: Run
    requires: tuple[str, ...] = ()
    extra: str | None = None
    calibrates: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    draft: Mapping[str, Any] = field(default_factory=dict)
    convert: Callable[[Any, dict[str, Any], str], Any] | None = None


TECHNIQUES: Kind[Technique] = Kind("technique", "techniques", __name__, Technique)
