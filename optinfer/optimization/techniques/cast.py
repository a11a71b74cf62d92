"""Cast a torch model's weights and arithmetic to a shorter float; the files stay, the cast happens on load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change

INPUTS = ("huggingface",)
REQUIRES = ("torch",)
CALIBRATES = False
DEFAULTS: dict[str, Any] = {"dtype": "bfloat16"}

_SHORT = {"bfloat16": "bf16", "float16": "fp16"}


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    dtype = options["dtype"]
    return Change(format=source.format, precision=_SHORT[dtype], load_options={"cast": dtype})
