"""Texts to vectors, as the model's own files say: transformer, then its pooling, then its normalization.

Reads what sentence-transformers writes (modules.json and the folders it names); a plain transformer folder is pooled by
the mean over its tokens and not normalized. Pooling and normalization are part of the exported model, so every backend
gives the finished vector.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Family, Features
from optinfer.families._text import DYNAMIC_AXES, INPUTS, TextTokenizer, read_json, require_strings

ROLES = ("text",)
FRAGMENT_ROWS = 1024
METRICS = ("cosine",)

_POOLINGS = ("mean", "cls", "max")


def check(schema: pa.Schema, columns: dict[str, str]) -> None:
    require_strings(schema, columns)


def load(model_path: str, settings: dict[str, Any]) -> Family:
    return TextEmbedding(Path(model_path), settings.get("max_length"))


class TextEmbedding(Family):
    """Columns gained: `embedding`, a fixed-size list of float32."""

    inputs = INPUTS
    outputs = ("sentence_embedding",)
    dynamic_axes = DYNAMIC_AXES

    def __init__(self, folder: Path, max_length: int | None) -> None:
        config = read_json(folder / "config.json")
        if "hidden_size" not in config:
            raise ConfigError(f"{folder}/config.json is missing or has no hidden_size: not a transformer folder")
        self._folder = folder
        self._tokenize = TextTokenizer(folder, max_length)
        self._pooling, self._normalize = pooling_of(folder)
        self.schema = pa.schema([("embedding", pa.list_(pa.float32(), int(config["hidden_size"])))])

    def preprocess(self, table: pa.Table) -> Features:
        return self._tokenize(table.column("text"))

    def postprocess(self, outputs: Arrays) -> pa.Table:
        vectors = np.ascontiguousarray(outputs["sentence_embedding"], dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.Table.from_arrays([column], schema=self.schema)

    def load_module(self) -> Any:
        import torch
        from transformers import AutoModel
        from transformers.utils import logging as transformers_logging

        pooling, normalize = self._pooling, self._normalize

        class Embedder(torch.nn.Module):
            def __init__(self, encoder: torch.nn.Module) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
                mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
                if pooling == "cls":
                    vector = tokens[:, 0]
                elif pooling == "max":
                    vector = tokens.masked_fill(mask == 0, -1e9).max(dim=1).values
                else:
                    vector = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
                return torch.nn.functional.normalize(vector, dim=-1) if normalize else vector

        transformers_logging.disable_progress_bar()
        encoder = AutoModel.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        return Embedder(encoder).eval()


def pooling_of(folder: Path) -> tuple[str, bool]:
    """Return (pooling, normalized) as the folder's modules.json says."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "mean", False
    kinds = {m["type"].rpartition(".")[2]: m["path"] for m in json.loads(modules.read_text(encoding="utf-8"))}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ConfigError(f"{modules} names modules that text-embedding does not know: {', '.join(sorted(unknown))}")
    return _pooling_mode(folder / kinds.get("Pooling", "1_Pooling") / "config.json"), "Normalize" in kinds


def _pooling_mode(path: Path) -> str:
    config = read_json(path)
    # Newer folders hold one word, older ones a flag for each mode.
    modes = (
        [config["pooling_mode"]]
        if "pooling_mode" in config
        else [
            key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on is True
        ]
    )
    if not modes:
        return "mean"
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise ConfigError(f"{path} asks for pooling {modes}; text-embedding knows one of {', '.join(_POOLINGS)}")
    return str(modes[0])
