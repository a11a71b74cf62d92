"""Texts to tokens, and a text model's own files to a torch module: shared by the text families.

Tokens of all rows lie end to end in one array, so a fragment of any size is two arrays and no per-row objects.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.artifact import Artifact
from optinfer.errors import ConfigError
from optinfer.families import Arrays, Columns, Features

INPUTS = ("input_ids", "attention_mask")
DYNAMIC_AXES = {name: {0: "batch", 1: "sequence"} for name in INPUTS}


@dataclass(kw_only=True)
class TextFeatures(Features):
    """Token ids of all rows end to end; row i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    pad_id: int

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        width = max(int((stops - starts).max()), pad_to)
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            ids[i, : stop - start] = self.ids[start:stop]
        mask = (np.arange(width) < (stops - starts)[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}


class TextTokenizer:
    """The folder's own tokenizer, truncating to `max_length` tokens and never padding."""

    def __init__(self, folder: Path, max_length: int | None) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{folder} has no tokenizer.json; save it with `tokenizer.save_pretrained(folder)`")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(max_length or model_max_length(folder))
        self._tokenizer.no_padding()
        self._pad_id = int(read_json(folder / "config.json").get("pad_token_id") or 0)

    def __call__(self, texts: pa.ChunkedArray | pa.Array) -> TextFeatures:
        """Tokenize one column; nulls are rejected, every other text gives at least its special tokens."""
        nulls = np.asarray(texts.is_null())
        filled = pc.fill_null(texts.cast(pa.large_string()), "").to_pylist()
        # The Rust tokenizer starts a thread per core unless told not to: with one replica a core they would fight.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        encoded = self._tokenizer.encode_batch_fast(filled)
        lengths = np.fromiter((len(e) for e in encoded), dtype=np.int64, count=len(encoded))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.empty(int(offsets[-1]), dtype=np.int64)
        for i, encoding in enumerate(encoded):
            ids[offsets[i] : offsets[i + 1]] = encoding.ids
        return TextFeatures(
            rows=len(encoded),
            lengths=lengths,
            rejected={int(i): "text is null" for i in np.flatnonzero(nulls)},
            ids=ids,
            offsets=offsets,
            pad_id=self._pad_id,
        )


def require_folder(model: Artifact) -> Path:
    """Return the folder of a text model.

    Raises:
        ConfigError: it is not one, or a file that every text model needs is missing.
    """
    if model.format != "torch" or model.entry:
        raise ConfigError(
            f"model.path {model.file} is one file; text families need a folder with config.json, tokenizer.json and "
            "*.safetensors, as save_pretrained(folder) writes it"
        )
    if missing := [name for name in ("config.json", "tokenizer.json") if not Path(model.path, name).is_file()]:
        raise ConfigError(f"model.path {model.path} lacks {missing[0]}; save model and tokenizer with save_pretrained")
    return Path(model.path)


def require_strings(schema: pa.Schema, columns: Columns) -> None:
    """Refuse a text column that does not hold strings (plain, large or dictionary-encoded)."""
    if not isinstance(columns["text"], str):
        raise ConfigError("source.columns.text takes one column, not several; write a table with the joined text")
    kind = schema.field(columns["text"]).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise ConfigError(
            f"column {columns['text']!r} holds {kind}, text needs strings; "
            "map source.columns.text to a string column, or cast this one when writing the table"
        )


def model_max_length(folder: Path) -> int:
    """Return how many tokens the model was meant for: sentence-transformers' own setting, else its positions."""
    positions = read_json(folder / "config.json").get("max_position_embeddings")
    meant = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    limits = [int(n) for n in (positions, meant) if n]
    if not limits:
        raise ConfigError(f"{folder} does not say how long a text may be; set model.max_length")
    return min(limits)


def load_encoder(folder: Path, auto_class: str) -> Any:
    """Load a transformers model, fp32, from the folder alone: no network, no code from the folder, no pickles."""
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # Without any, the job allowed its pickled weights (optimization/model_source.py).
    safe = any(folder.glob("*.safetensors"))
    return getattr(transformers, auto_class).from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=safe, dtype=torch.float32
    )


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
