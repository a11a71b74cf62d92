"""ONNX Runtime's graph optimization, done once and saved instead of at every load; the answers stay the same.

Replicas start sooner; speed stays, since a session does the same when it loads. It belongs last in a chain: the
operators of `extended` are ONNX Runtime's own, which no other runtime reads and which quantize into a slower model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx

_LEVELS = ("basic", "extended")


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    if options["level"] not in _LEVELS:
        raise ConfigError(f"onnx_optimize: no level {options['level']!r}" + suggest(str(options["level"]), _LEVELS))
    _onnx.optimize(source.file, out, options["level"])
    return Change(format="onnx", precision=source.precision)


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnxruntime",),
    defaults={"level": "extended"},
    run=run,
)
