"""torchao's int8, applied on load: one scale for each row of a weight matrix, and for each token of an activation.

`dynamic` multiplies in int8 and finds each token's scale at run time, so no row moves another's answer; fast only where
compiled (backend torch-compiled) on hardware with int8 instructions. `weights` stores int8 and multiplies in float:
a quarter of the memory, no faster arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

if TYPE_CHECKING:
    import torch


_MODES = ("dynamic", "weights")


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    mode = options["mode"]
    if mode not in _MODES:
        raise ConfigError(f"torchao_int8 has no mode {mode!r}" + suggest(str(mode), _MODES))
    notes = () if mode == "dynamic" else ("int8 is how weights are stored; the arithmetic is float",)
    return Change(format="torch", precision="int8", convert={"mode": mode}, notes=notes)


def convert(module: torch.nn.Module, options: dict[str, Any], device: str) -> torch.nn.Module:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, PerRow, quantize_
    from torchao.utils import should_reduce_range

    # The recommended inductor settings are global: they would reach every other compiled model of the process.
    if options["mode"] == "dynamic":
        config = Int8DynamicActivationInt8WeightConfig(
            granularity=PerRow(),
            # Without VNNI, 16-bit sums of full-range int8 products overflow.
            reduce_range=should_reduce_range(torch.device(device)),
            set_inductor_config=False,
        )
    else:
        config = Int8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(module, config, device=device)
    return module


technique = Technique(
    inputs=("torch",),
    output="torch",
    requires=("torch", "torchao"),
    extra="torchao",
    defaults={"mode": "dynamic"},
    run=run,
    convert=convert,
)
