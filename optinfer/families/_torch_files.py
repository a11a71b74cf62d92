"""Torch's own files to modules. Only `.pt2` and safetensors load without `allow_pickle`; both are checked before."""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

from optinfer.errors import ConfigError


def load_pt2(path: Path) -> Any:
    """Return an exported program as a module; it has no modes, so train() and eval() leave it as it is."""
    import torch

    module = torch.export.load(path).module()

    def unchanged(self: Any, mode: bool = True) -> Any:
        return self

    module.train, module.eval = MethodType(unchanged, module), MethodType(unchanged, module)
    return module


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
        # Only reached with model.allow_pickle (optimization/model_safety.py).
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
