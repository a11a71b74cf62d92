"""The torch module of a sentence-transformers folder: from tokens to the finished vector, in fp32.

Each step is that library's own formula, written so that it exports: no branch depends on the data.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError
from optinfer.families._limits import check_positions
from optinfer.families._sentence import Layer, activation_of, poolings_of
from optinfer.families._settings import read_json
from optinfer.families._text import load_encoder
from optinfer.families._tokens import TextTokenizer

# Of an encoder and decoder only the first half makes vectors, as sentence-transformers loads them.
_ENCODERS = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}


def load_sentence_module(
    folder: Path, layers: tuple[Layer, ...], tokenize: TextTokenizer, *, skip: int = 0, truncate: int | None = None
) -> Any:
    """Return a torch module from (input_ids, attention_mask) to the last layer's output, (rows, width).

    Args:
        tokenize: what will give it tokens.
        skip: tokens at a text's start that its pooling leaves out.
        truncate: numbers kept of each vector.
    """
    import torch

    class SentenceModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = read_json(folder / "config.json").get("model_type")
            self.encoder = without_cache(load_encoder(folder, _ENCODERS.get(str(kind), "AutoModel")))
            check_positions(folder, self.encoder, tokenize.limit)
            self.types = tokenize.facts.types and needs_types(self.encoder)
            self.trained = torch.nn.ModuleList(_trained(layer) for layer in layers)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            given = {"token_type_ids": torch.zeros_like(input_ids)} if self.types else {}
            encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **given)
            value = pool(encoded.last_hidden_state, attention_mask, poolings_of(layers[0].config), skip)
            for layer in self.trained[1:]:
                value = layer(value)
            return value if truncate is None else value[..., :truncate]

    return SentenceModel().eval()


def without_cache(model: Any) -> Any:
    """Tell a decoder not to keep what it would need for a next token."""
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model


def needs_types(model: Any) -> bool:
    """Tell whether token types of zero change a model's answer; most take them for zero anyway."""
    import torch

    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return False
    model.eval()
    ids = torch.arange(1, 6).unsqueeze(0) % model.config.vocab_size
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "return_dict": True}
    with torch.inference_mode():
        without, with_types = model(**given)[0], model(**given, token_type_ids=torch.zeros_like(ids))[0]
    return not torch.equal(without, with_types)


def pool(tokens: Any, attention_mask: Any, modes: tuple[str, ...], skip: int = 0) -> Any:
    """Return (rows, width x modes): each mode's vector of (rows, length, width) tokens, side by side.

    Rows are padded on the right; the first `skip` tokens of each are left out.
    """
    import torch

    if skip:
        kept = torch.arange(attention_mask.shape[1], device=attention_mask.device) >= skip
        attention_mask = attention_mask * kept.to(attention_mask.dtype)
    given = tokens.dtype
    if given in (torch.bfloat16, torch.float16):
        tokens = tokens.float()  # half precision cannot count to 300
    pooled = [_pool(tokens, attention_mask, mode, skip) for mode in modes]
    return (pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)).to(given)


def _pool(tokens: Any, attention_mask: Any, mode: str, skip: int) -> Any:
    import torch

    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    if mode == "cls" and not skip:
        return tokens[:, 0]
    if mode == "cls":
        return _at(tokens, torch.where(attention_mask.sum(dim=1) > 0, skip, 0))
    if mode == "lasttoken":
        return _at(tokens * mask, (places * attention_mask).amax(dim=1))
    if mode == "max":
        # Of a row without any token that library gives -inf, and the row is rejected; else a number that quantizes.
        least = float("-inf") if skip else torch.finfo(tokens.dtype).min
        return tokens.masked_fill(mask == 0, least).max(dim=1).values
    weights = mask * (places + 1).view(1, -1, 1).to(mask.dtype) if mode == "weightedmean" else mask
    total, count = (tokens * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _at(tokens: Any, place: Any) -> Any:
    """Return (rows, width): of each row the token at its place."""
    import torch

    return torch.gather(tokens, 1, place.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)


def _trained(layer: Layer) -> Any:
    """Return a layer's own module, its weights loaded; pooling has none."""
    import torch

    class Normalize(torch.nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(value, dim=-1)

    if layer.kind == "Dense":
        return _dense(layer)
    if layer.kind == "LayerNorm":
        norm = torch.nn.LayerNorm(int(layer.config["dimension"]))
        return _filled(norm, {key.removeprefix("norm."): value for key, value in _weights(layer).items()}, layer)
    return Normalize() if layer.kind == "Normalize" else torch.nn.Identity()


def _dense(layer: Layer) -> Any:
    import torch

    width_in, width_out = int(layer.config["in_features"]), int(layer.config["out_features"])

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(width_in, width_out, bias=bool(layer.config.get("bias", True)))
            self.activation = getattr(torch.nn, activation_of(layer.folder / "config.json", layer.config))()
            self.adds = bool(layer.config.get("use_residual"))
            if self.adds and width_in != width_out:
                self.residual = torch.nn.Linear(width_in, width_out, bias=False)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            out = self.activation(self.linear(value))
            if not self.adds:
                return out
            return out + (self.residual(value) if width_in != width_out else value)

    return _filled(Dense(), _weights(layer), layer)


def _filled(module: Any, weights: dict[str, Any], layer: Layer) -> Any:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{layer.folder} holds other weights than its config.json asks for: {error}") from error
    return module


def _weights(layer: Layer) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights = layer.folder / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{layer.folder} has no model.safetensors; save the model again in safetensors format")
    loaded: dict[str, Any] = load_file(weights)
    return loaded
