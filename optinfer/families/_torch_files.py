"""Torch's own files to modules. Only `.pt2` and safetensors load without `allow_pickle`; both are checked before."""

from __future__ import annotations

import inspect
from pathlib import Path
from threading import Lock
from types import MethodType
from typing import Any

from optinfer.errors import ConfigError

# torch keeps the archive that it reads in a global: two replicas of one process would read each other's.
_LOADING = Lock()


def load_pt2(path: Path) -> Any:
    """Return an exported program as a module from its inputs in order to its outputs in order.

    It has no modes, so train() and eval() leave it as it is.
    """
    import torch

    with _LOADING:
        program = torch.export.load(path)
    module = _flat(program.module(), program.call_spec)

    def unchanged(self: Any, mode: bool = True) -> Any:
        return self

    module.train, module.eval = MethodType(unchanged, module), MethodType(unchanged, module)
    return module


def _flat(module: Any, spec: Any) -> Any:
    """Return the module, in one that takes and gives plain tensors where it has keywords, dictionaries or nests."""
    import torch
    from torch.utils import _pytree

    taken, given = ([0] * tree.num_leaves for tree in (spec.in_spec, spec.out_spec))
    plain = [_pytree.tree_structure(outputs) for outputs in (0, given, tuple(given))]
    if spec.in_spec == _pytree.tree_structure((tuple(taken), {})) and spec.out_spec in plain:
        return module

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            args, kwargs = _pytree.tree_unflatten(inputs, spec.in_spec)
            return tuple(_pytree.tree_leaves(self.module(*args, **kwargs)))

    # Exporters read the number of the inputs from the signature, and take `*inputs` for a single one.
    names = ("self", *(f"input_{i}" for i in range(len(taken))))
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    Flat.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat = Flat()
    flat.training = False  # an exported program has one mode, and its own eval() raises
    return flat


def load_weights(module: Any, path: Path) -> Any:
    """Fill a module with the weights of a file (safetensors, or a pickled state dict or module); eval mode.

    Raises:
        ConfigError: the file's weights are another model's.
    """
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights: Any = load_file(path)
    else:
        # Only reached with model.allow_pickle (models/safety.py).
        weights = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(weights, torch.nn.Module):
        return weights.float().eval()
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"the weights in {path} do not fit {type(module).__name__}: {error}; check model.class and model.arguments"
        ) from error
    return module.float().eval()
