"""Magnitude pruning: the smallest weights of every linear layer become zero, on load.

It shows how much a model can lose; it makes nothing faster: dense kernels multiply by zero at full price.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

if TYPE_CHECKING:
    import torch


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    sparsity = options["sparsity"]
    if not 0 < sparsity < 1:
        raise ConfigError(f"prune_unstructured: sparsity is a fraction between 0 and 1, not {sparsity}")
    return Change(
        format="torch",
        precision=source.precision,
        convert={"sparsity": sparsity},
        notes=(f"{sparsity:.0%} of the weights are zero; dense kernels gain nothing in speed from it",),
    )


def convert(module: torch.nn.Module, options: dict[str, Any], device: str) -> torch.nn.Module:
    import torch

    for linear in module.modules():
        if isinstance(linear, torch.nn.Linear):
            weight = linear.weight.detach()
            zeros = round(weight.numel() * options["sparsity"])
            smallest = weight.abs().flatten().topk(zeros, largest=False).indices
            # In place: a weight that two layers share stays shared.
            weight.view(-1)[smallest] = 0
    return module


technique = Technique(
    inputs=("torch",),
    output="torch",
    requires=("torch",),
    defaults={"sparsity": 0.5},
    run=run,
    convert=convert,
)
