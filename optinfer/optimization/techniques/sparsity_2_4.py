"""2:4 sparsity: of every four neighbouring weights in a linear layer's row, the two largest stay.

NVIDIA GPUs since Ampere multiply such matrices in half the steps (fp16). On a CPU only the mask is applied, in fp32:
its answers can be looked at there, a job on a CPU is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

if TYPE_CHECKING:
    import torch


# What torch's sparse fp16 kernels ask of a matrix: multiples of (rows, columns).
_TILE = (32, 64)


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    return Change(
        format="torch",
        precision="fp16",
        convert={},
        notes=("two of four neighbouring weights are zero; it is for NVIDIA GPUs",),
    )


def convert(module: torch.nn.Module, options: dict[str, Any], device: str) -> torch.nn.Module:
    import torch

    linears = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.in_features % 4 == 0]
    for linear in linears:
        weight = linear.weight.detach()
        weight.mul_(mask(weight))
    return module if device == "cpu" else _compressed(module, linears, device)


def mask(weight: torch.Tensor) -> torch.Tensor:
    """Return 1 where a weight stays: the two largest of each four in a row (row length a multiple of 4)."""
    import torch

    fours = weight.abs().reshape(-1, 4)
    kept = torch.zeros_like(fours).scatter_(1, fours.topk(2, dim=1).indices, 1)
    return kept.reshape(weight.shape)


def _compressed(module: torch.nn.Module, linears: list[torch.nn.Linear], device: str) -> torch.nn.Module:
    """Move the module to the GPU in fp16 and store every masked matrix the kernels can take in compressed form."""
    import torch
    from torch.sparse import to_sparse_semi_structured

    module = module.to(device, torch.float16)
    for linear in linears:
        if all(size % tile == 0 for size, tile in zip(linear.weight.shape, _TILE, strict=True)):
            compressed = to_sparse_semi_structured(linear.weight.detach())
            linear.weight = torch.nn.Parameter(compressed, requires_grad=False)
    return module


technique = Technique(
    inputs=("torch",),
    output="torch",
    requires=("torch",),
    run=run,
    convert=convert,
)
