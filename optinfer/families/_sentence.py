"""A folder as sentence-transformers writes it, read without that library: transformer, pooling, then further layers.

`modules.json` names the layers in order. What each does is in its folder's config.json; a plain transformer folder
without modules.json is pooled by the mean over its tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError
from optinfer.families._text import load_encoder, read_json

_POOLINGS = ("mean", "cls", "max")
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")


@dataclass(frozen=True)
class Layer:
    """A layer after the transformer: `Pooling`, `Dense` or `Normalize`, with its own settings."""

    kind: str
    folder: Path
    config: dict[str, Any]


def layers_of(folder: Path) -> tuple[Layer, ...]:
    """Return the layers that follow the transformer.

    Raises:
        ConfigError: a layer of a kind that is not known here.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return (Layer("Pooling", folder, {"pooling_mode": "mean"}),)
    layers = []
    for entry in json.loads(modules.read_text(encoding="utf-8")):
        kind = entry["type"].rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout"):
            raise ConfigError(f"{modules} has a layer {kind}; known: Transformer, Pooling, Dense, Normalize, Dropout")
        if kind not in ("Transformer", "Dropout"):
            layers.append(Layer(kind, folder / entry["path"], read_json(folder / entry["path"] / "config.json")))
    return tuple(layers)


def width_of(folder: Path, layers: tuple[Layer, ...]) -> int:
    """Return how many numbers come out of the last layer."""
    for layer in reversed(layers):
        if layer.kind == "Dense":
            return int(layer.config["out_features"])
    config = read_json(folder / "config.json")
    if "hidden_size" not in config:
        raise ConfigError(f"{folder}/config.json has no hidden_size: not a transformer folder")
    return int(config["hidden_size"])


def pooling_of(layer: Layer) -> str:
    """Return a pooling layer's mode; newer folders hold one word, older ones a flag for each mode."""
    config = layer.config
    flags = [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    modes = [config["pooling_mode"]] if "pooling_mode" in config else flags or ["mean"]
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise ConfigError(f"{layer.folder} asks for pooling {modes}; known: one of {', '.join(_POOLINGS)}")
    return str(modes[0])


def load_sentence_module(folder: Path, layers: tuple[Layer, ...]) -> Any:
    """Return a torch module from (input_ids, attention_mask) to the last layer's output, (rows, width)."""
    import torch

    class SentenceModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = load_encoder(folder, "AutoModel")
            self.dense = torch.nn.ModuleList(_dense(layer) for layer in layers if layer.kind == "Dense")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            value = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            dense = iter(self.dense)
            for layer in layers:
                if layer.kind == "Pooling":
                    value = _pool(value, attention_mask, pooling_of(layer))
                elif layer.kind == "Dense":
                    value = next(dense)(value)
                else:
                    value = torch.nn.functional.normalize(value, dim=-1)
            return value

    return SentenceModel().eval()


def _pool(tokens: Any, attention_mask: Any, mode: str) -> Any:
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    if mode == "cls":
        return tokens[:, 0]
    if mode == "max":
        return tokens.masked_fill(mask == 0, -1e9).max(dim=1).values
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _dense(layer: Layer) -> Any:
    import torch
    from safetensors.torch import load_file

    weights = layer.folder / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{layer.folder} has no model.safetensors; save the model again in safetensors format")
    name = str(layer.config.get("activation_function", "Identity")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ConfigError(f"{layer.folder} asks for the activation {name}; known: {', '.join(_ACTIVATIONS)}")
    state = load_file(weights)
    linear = torch.nn.Linear(layer.config["in_features"], layer.config["out_features"], bias="linear.bias" in state)
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in state.items()})
    return torch.nn.Sequential(linear, getattr(torch.nn, name)())
