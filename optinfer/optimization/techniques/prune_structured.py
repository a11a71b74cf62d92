"""Structured pruning of transformer encoders: whole attention heads and feed-forward neurons leave.

The only pruning that makes dense kernels faster, as its matrices get smaller. What a head or a neuron is worth is
measured on the job's own rows: the mean length of the vector it adds after its output projection. The fraction is the
same in every layer. Without training afterwards the answers move far and soon, which the gate measures. Indices are
kept in a small file and matrices are cut on load, so the result exports, casts and quantizes like any other module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

if TYPE_CHECKING:
    import torch


_KEPT = "kept.json"
# Matrix kernels work in vectors of at least this many numbers: a width between two multiples saves nothing.
_NEURON_MULTIPLE = 8


@dataclass(frozen=True)
class _Layout:
    """How one family of models names the linear layers around its heads or neurons, relative to their common owner.

    `inputs` make the units (rows of their weights), `output` consumes them (columns); `head_size` names the attribute
    that says how many units are one head, `counts` the attributes that repeat the number of heads.
    """

    models: str
    inputs: tuple[str, ...]
    output: str
    head_size: str | None = None
    counts: tuple[str, ...] = ()


# Named as transformers 5 does. Each attention reshapes by its head size and -1, so fewer heads pass through unchanged.
_LAYOUTS = {
    "heads": (
        _Layout(
            models="BERT, RoBERTa, ELECTRA, MiniLM",
            inputs=("self.query", "self.key", "self.value"),
            output="output.dense",
            head_size="self.attention_head_size",
            counts=("self.num_attention_heads",),
        ),
        _Layout("DistilBERT", ("q_lin", "k_lin", "v_lin"), "out_lin", "attention_head_size", ("n_heads",)),
        _Layout("ViT, DeiT, DINOv2", ("q_proj", "k_proj", "v_proj"), "o_proj", "head_dim", ("num_attention_heads",)),
        _Layout("CLIP, SigLIP", ("q_proj", "k_proj", "v_proj"), "out_proj", "head_dim", ("num_heads",)),
    ),
    "neurons": (
        _Layout("BERT, RoBERTa, ELECTRA, MiniLM, MPNet", ("intermediate.dense",), "output.dense"),
        _Layout("DistilBERT", ("lin1",), "lin2"),
        _Layout("ViT, DeiT, DINOv2, CLIP, SigLIP", ("fc1",), "fc2"),
        _Layout("gated feed-forward layers", ("gate_proj", "up_proj"), "down_proj"),
    ),
}


@dataclass(frozen=True)
class _Block:
    """One layer's heads or neurons: `groups` of `width` units each."""

    owner: torch.nn.Module
    layout: _Layout
    groups: int
    width: int

    @property
    def output(self) -> torch.nn.Linear:
        linear: torch.nn.Linear = self.owner.get_submodule(self.layout.output)
        return linear


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    _check(source, options)
    module = context.module(source)
    fractions = {kind: options[kind] for kind in _LAYOUTS if options[kind]}
    blocks = {kind: _blocks(module, kind) for kind in fractions}
    for kind, found in blocks.items():
        if not found:
            raise ConfigError(_unknown(module, kind))
    importance = _importance(module, context, blocks, options["rows"])
    kept = {
        kind: {name: _best(scores, fractions[kind], kind) for name, scores in importance[kind].items()}
        for kind in fractions
    }
    _try(module, kept, context)
    (out / _KEPT).write_text(json.dumps(kept))
    notes = tuple(_left(kind, layers, blocks[kind]) for kind, layers in kept.items())
    return Change(format="torch", precision="fp32", convert={}, notes=notes)


def convert(module: torch.nn.Module, options: dict[str, Any], device: str) -> torch.nn.Module:
    _shrink(module, json.loads(Path(options["folder"], _KEPT).read_text()))
    return module


def _check(source: Artifact, options: dict[str, Any]) -> None:
    for kind in _LAYOUTS:
        if not 0 <= options[kind] < 1:
            raise ConfigError(f"prune_structured: {kind} is a fraction from 0 to below 1, not {options[kind]}")
    if not any(options[kind] for kind in _LAYOUTS):
        raise ConfigError("prune_structured: heads and neurons are both 0, nothing would be pruned; set one of them")
    if source.precision != "fp32":
        raise ConfigError(f"prune_structured measures in fp32, not in {source.precision}; make it an earlier step")


def _blocks(module: torch.nn.Module, kind: str) -> dict[str, _Block]:
    """Return owner's name -> block for every layer of a known layout."""
    found = {}
    for name, owner in module.named_modules():
        for layout in _LAYOUTS[kind]:
            if block := _block(owner, layout):
                found[name] = block
                break
    return found


def _block(owner: torch.nn.Module, layout: _Layout) -> _Block | None:
    from torch import nn

    try:
        linears = [owner.get_submodule(path) for path in (*layout.inputs, layout.output)]
        width = int(_attribute(owner, layout.head_size)) if layout.head_size else 1
    except AttributeError:
        return None
    if not all(isinstance(linear, nn.Linear) for linear in linears):
        return None
    units = linears[-1].in_features
    # Keys and values shared between heads (grouped queries) are narrower than the queries: another layout.
    if any(linear.out_features != units for linear in linears[:-1]) or units % width:
        return None
    return _Block(owner=owner, layout=layout, groups=units // width, width=width)


def _attribute(owner: Any, path: str) -> Any:
    parent, _, name = path.rpartition(".")
    return getattr(owner.get_submodule(parent), name)


def _unknown(module: torch.nn.Module, kind: str) -> str:
    other = next(k for k in _LAYOUTS if k != kind)
    known = "; ".join(layout.models for layout in _LAYOUTS[kind])
    instead = f"; its {other} can be pruned: set {kind}: 0" if _blocks(module, other) else ""
    return f"prune_structured finds no {kind} it knows in {type(module).__name__}; known layouts: {known}{instead}"


def _importance(
    module: torch.nn.Module, context: BuildContext, blocks: dict[str, dict[str, _Block]], rows: int
) -> dict[str, dict[str, torch.Tensor]]:
    """Return kind -> layer -> (groups,) mean length of what a group adds to the layer's output, over all tokens."""
    import torch

    totals = {kind: {name: torch.zeros(b.groups) for name, b in found.items()} for kind, found in blocks.items()}
    ran = False
    with ExitStack() as hooks, torch.inference_mode():
        for kind, found in blocks.items():
            for name, block in found.items():
                hook = block.output.register_forward_pre_hook(partial(_observe, block, totals[kind][name]))
                hooks.callback(hook.remove)
        for given in _rows(context, rows):
            module(*given)
            ran = True
    if not ran:
        raise ConfigError("pruning measures importance on rows, the sample has none; score a table with rows")
    return totals


def _observe(block: _Block, total: torch.Tensor, linear: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
    import torch

    units = inputs[0].reshape(-1, block.groups, block.width)
    columns = linear.weight.reshape(linear.out_features, block.groups, block.width)
    for group in range(block.groups) if block.width > 1 else ():
        total[group] += (units[:, group] @ columns[:, group].T).norm(dim=1).sum()
    if block.width == 1:
        # One unit adds its activation times one column: its length needs no product.
        total += units.abs().sum(dim=0)[:, 0] * torch.linalg.vector_norm(linear.weight, dim=0)


def _rows(context: BuildContext, rows: int) -> Iterator[list[torch.Tensor]]:
    import torch

    for batch in context.calibration_batches(rows):
        yield [torch.from_numpy(batch[name]) for name in context.family.inputs]


def _best(scores: torch.Tensor, fraction: float, kind: str) -> list[int]:
    """Return the sorted indices of the most important groups; at least one stays."""
    count = max(1, round(len(scores) * (1 - fraction)))
    if kind == "neurons":
        count = min(len(scores), -(-count // _NEURON_MULTIPLE) * _NEURON_MULTIPLE)
    return sorted(scores.topk(count).indices.tolist())


def _shrink(module: torch.nn.Module, kept: dict[str, dict[str, list[int]]]) -> None:
    for kind, layers in kept.items():
        blocks = _blocks(module, kind)
        for name, groups in layers.items():
            _cut(blocks[name], groups)


def _cut(block: _Block, groups: list[int]) -> None:
    import torch

    units = (torch.tensor(groups)[:, None] * block.width + torch.arange(block.width)).flatten()
    for path in block.layout.inputs:
        _replace(block.owner, path, units, axis=0)
    _replace(block.owner, block.layout.output, units, axis=1)
    for path in block.layout.counts:
        parent, _, name = path.rpartition(".")
        setattr(block.owner.get_submodule(parent), name, len(groups))
    # BERT's own record of heads times head size.
    for part in block.owner.modules():
        if block.layout.head_size and hasattr(part, "all_head_size"):
            part.all_head_size = len(units)


def _replace(owner: torch.nn.Module, path: str, units: torch.Tensor, axis: int) -> None:
    """Put a smaller linear layer in the place of the one at `path`: its rows (axis 0) or columns (axis 1) `units`."""
    import torch
    from torch import nn

    old: nn.Linear = owner.get_submodule(path)
    weight = old.weight.detach().index_select(axis, units.to(old.weight.device))
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=old.bias is not None, device="meta")
    new.weight = nn.Parameter(weight, requires_grad=False)
    if old.bias is not None:
        bias = old.bias.detach()
        new.bias = nn.Parameter(torch.clone(bias if axis else bias[units.to(bias.device)]), requires_grad=False)
    owner.set_submodule(path, new.train(old.training))


def _try(module: torch.nn.Module, kept: dict[str, dict[str, list[int]]], context: BuildContext) -> None:
    """Run a row through the pruned module: layers that look alike may hold something else that counts heads."""
    import torch

    pruned = deepcopy(module)
    _shrink(pruned, kept)
    try:
        with torch.inference_mode():
            pruned(*next(_rows(context, 1)))
    except RuntimeError as error:
        raise ConfigError(
            f"{type(module).__name__} does not run with fewer heads or neurons ({error}); "
            "set heads: 0 to prune only neurons, or leave prune_structured out"
        ) from error


def _left(kind: str, kept: dict[str, list[int]], blocks: dict[str, _Block]) -> str:
    return f"{kind} left in a layer: {_range(map(len, kept.values()))} of {_range(b.groups for b in blocks.values())}"


def _range(counts: Iterable[int]) -> str:
    values = sorted(set(counts))
    return str(values[0]) if len(values) == 1 else f"{values[0]}–{values[-1]}"


technique = Technique(
    inputs=("torch",),
    output="torch",
    requires=("torch",),
    calibrates=True,
    defaults={"heads": 0.25, "neurons": 0.25, "rows": 32},
    run=run,
    convert=convert,
)
