"""Cast a torch model's weights and arithmetic to a shorter float; the files stay, the cast happens on load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

_SHORT = {"bfloat16": "bf16", "float16": "fp16"}


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    dtype = options["dtype"]
    if dtype not in _SHORT:
        raise ConfigError(f"cast: no dtype {dtype!r}" + suggest(str(dtype), _SHORT))
    return Change(format=source.format, precision=_SHORT[dtype], convert={"dtype": dtype})


def convert(module: Any, options: dict[str, Any], device: str) -> Any:
    import torch

    return module.to(getattr(torch, options["dtype"]))


technique = Technique(
    inputs=("torch",),
    output="torch",
    requires=("torch",),
    defaults={"dtype": "bfloat16"},
    run=run,
    convert=convert,
)
