"""How many tokens a text model takes: what its library would keep of a text, and where its positions end.

A table of positions has an end, beyond which a model cannot be run at all. Some start counting after the padding
token's own index, so that `max_position_embeddings` is more than fits. Rotary and relative positions have no end.
"""

from __future__ import annotations

from typing import Any

_POSITIONS = ("max_position_embeddings", "n_positions")
# Positions count from the index of the padding token on: modeling_roberta.py, create_position_ids_from_input_ids.
_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
_NO_TABLE = ("bloom", "deberta", "deberta-v2", "longt5", "mpt", "mt5", "switch_transformers", "t5", "umt5")
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
    if kind in _NO_TABLE or kind in _ROTARY or rotary:
        return None
    found = next((n for key in _POSITIONS if (n := _length(config.get(key)))), None)
    if found and kind in _AFTER_PADDING:
        padding = 1 if kind == "mpnet" else config.get("pad_token_id", 1)
        return found - int(padding) - 1
    return found


def as_limit(value: Any) -> int | None:
    """Return a tokenizer's `model_max_length`, None where it says "as long as you like"."""
    return None if value is None or value > _ENDLESS else int(value)


def _length(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and value > 0 else None
