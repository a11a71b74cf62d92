"""How many tokens a text model takes: what its library would keep of a text, and where its positions end.

A table of positions has an end, beyond which a model cannot be run at all. Some start counting after the padding
token's own index, so that `max_position_embeddings` is more than fits. Rotary and relative positions have no end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError

_TABLES = ("embed_positions", "position_embeddings", "wpe")
_POSITIONS = ("max_position_embeddings", "n_positions")
# Positions count from the index of the padding token on: modeling_roberta.py, create_position_ids_from_input_ids.
_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
_NO_TABLE = (
    *("bloom", "deberta", "deberta-v2", "jamba", "longt5", "mpt", "mt5", "switch_transformers", "t5", "umt5"),
    *("zamba", "zamba2"),
)
_ROTARY = (
    "eurobert",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "gte",
    "llama",
    "mistral",
    "modernbert",
    "modernbert-decoder",
    "nomic_bert",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
)
# transformers' own names for "as long as you like": tokenization_utils_base.py, LARGE_INTEGER.
_ENDLESS = 1e20


def positions_of(config: dict[str, Any]) -> int | None:
    """Return how many tokens fit into the table of positions that a config.json describes; None without a table."""
    kind = config.get("model_type")
    rotary = any(key.startswith("rope_") for key in config)
    if kind == "deberta" or (kind == "deberta-v2" and config.get("position_biased_input", True)):
        return _length(config.get("max_position_embeddings"))
    found = next((n for key in _POSITIONS if (n := _length(config.get(key)))), None)
    if found and kind in _AFTER_PADDING:
        padding = None if kind == "mpnet" else config.get("pad_token_id")
        return found - (1 if padding is None else int(padding)) - 1
    return None if kind in _NO_TABLE or kind in _ROTARY or rotary else found


def positions_in(model: Any) -> int | None:
    """Return the same of a loaded model: the length of its table, less where it begins; None without a table."""
    import torch

    lengths = [
        module.num_embeddings
        - (0 if module.padding_idx is None else module.padding_idx + 1)
        - getattr(module, "offset", 0)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _TABLES
    ]
    return min(lengths, default=None)


def check_positions(folder: Path, model: Any, limit: int) -> None:
    """Refuse to feed more tokens than a loaded model has positions: config.json may promise more than there are.

    Raises:
        ConfigError: the texts may be longer.
    """
    there = positions_in(model)
    if there is not None and limit > there:
        raise ConfigError(
            f"{folder} has {there} positions, up to {limit} tokens of a text would be fed; set model.max_length {there}"
        )


def as_limit(value: Any) -> int | None:
    """Return a tokenizer's `model_max_length`, None where it says "as long as you like"."""
    return None if value is None or value > _ENDLESS else int(value)


def _length(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and value > 0 else None
