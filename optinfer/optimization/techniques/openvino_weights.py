"""Weights in 8 or 4 bits by NNCF, arithmetic in float, no rows to calibrate on: a quarter or a fifth of the memory.

At 8 bits the answers hardly move. At 4 bits a small model loses more than most gates allow, though embeddings and the
last layer stay at 8. A CPU gains little speed: it is for models that memory, not arithmetic, holds back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _openvino

_MODES = ("int8_asym", "int8_sym", "int4_asym", "int4_sym")


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import nncf

    mode = options["mode"]
    if mode not in _MODES:
        raise ConfigError(f"openvino_weights: no mode {mode!r}" + suggest(str(mode), _MODES))
    load_options = _openvino.load_options(options)
    model = nncf.compress_weights(
        _openvino.read(source),
        mode=nncf.CompressWeightsMode(mode),
        group_size=options["group_size"] if mode.startswith("int4") else None,
    )
    _openvino.write(model, out)
    return Change(format="openvino", precision=mode.partition("_")[0], load_options=load_options)


technique = Technique(
    inputs=("onnx",),
    output="openvino",
    requires=("openvino", "nncf"),
    extra="openvino",
    # `group_size`: how many weights share a scale at 4 bits; at 8 bits it is always a whole channel.
    defaults={"mode": "int8_asym", "group_size": 32, "inference_precision": "f32"},
    run=run,
)
