"""Texts to tokens with the model's own tokenizer, as transformers loads it from the folder.

Loading it needs transformers and torch: 1.5 s and 220 MB that a replica of another runtime would pay for one file. So
what transformers makes of a folder is written down once a machine ($OPTINFER_HOME/tokenizers); whoever comes later
reads it with `tokenizers` alone, in 20 ms. Nothing is loaded before the first text.

Tokens of all rows lie end to end in one array, so a fragment of any size is two arrays and no per-row objects. Rows are
padded on the right, whatever side the tokenizer names: a model answers by mask and position, so a padded row has the
answer of the row alone, which is what the model's library gives for it (tests/conformance).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.errors import ConfigError, OptinferError
from optinfer.families import Arrays, Features
from optinfer.families._limits import as_limit, positions_of
from optinfer.families._settings import read_json
from optinfer.system import home
from optinfer.system.machine import installed
from optinfer.system.quiet import hush


@dataclass(kw_only=True)
class TextFeatures(Features):
    """Token ids of all rows end to end; row i is `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        limit: tokens kept of a text; one that has as many was cut off, as good as always.
        unknown_id: the token for what the tokenizer does not know, None where it has none.
    """

    ids: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    pad_id: int
    limit: int
    unknown_id: int | None = None

    def traits(self) -> dict[str, np.ndarray[Any, Any]]:
        lengths = np.diff(self.offsets)
        found = {"tokens": lengths.astype(np.float64), "tokens.truncated": lengths >= self.limit}
        if self.unknown_id is not None:
            unknown = np.concatenate([[0], np.cumsum(self.ids == self.unknown_id)])[self.offsets]
            found["tokens.unknown"] = np.diff(unknown) / np.maximum(lengths, 1)
        return found

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        width = max(int((stops - starts).max()), pad_to)
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            ids[i, : stop - start] = self.ids[start:stop]
        mask = (np.arange(width) < (stops - starts)[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a model's texts are read.

    Attributes:
        folder: the model's.
        key: digest of its content.
        max_length: tokens kept of a text, where the job says so.
        meant: the same, where sentence-transformers' files say so; they win over the tokenizer's own.
        lower: texts are lower-cased first, whatever the tokenizer does.
        capped: the library keeps no more than `max_position_embeddings`, even where positions have no end.
        prompt: put before every text.
    """

    folder: Path
    key: str
    max_length: int | None = None
    meant: int | None = None
    lower: bool = False
    capped: bool = False
    prompt: str = ""

    def check(self) -> None:
        """Refuse what the folder's JSON already shows.

        Raises:
            ConfigError: nothing says how long a text may be, or the job asks for more tokens than there are positions.
        """
        config = read_json(self.folder / "config.json")
        longest = positions_of(config)
        if self.max_length and longest and self.max_length > longest:
            raise ConfigError(
                f"model.max_length {self.max_length} is more than the model's {longest} positions; lower it"
            )
        own = as_limit(read_json(self.folder / "tokenizer_config.json").get("model_max_length"))
        cap = config.get("max_position_embeddings") if self.capped else None
        if not (self.max_length or self.meant or longest or own or cap):
            raise ConfigError(f"{self.folder} does not say how long a text may be; set model.max_length")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What transformers says of a tokenizer, besides the tokenizer itself.

    Attributes:
        limit: tokens its library keeps of a text; None without a limit.
        side: where a longer text is cut.
        pad_id: the padding token: the model's own where it has one, as some find the end of a text by it.
        special: tokens added to every text.
        special_ids: every special token there is.
        types: it also gives token types, all zero.
        split: special tokens written in a text are read as text.
    """

    limit: int | None
    side: str
    pad_id: int
    special: int
    special_ids: list[int]
    types: bool
    split: bool
    fast: bool


class TextTokenizer:
    """The folder's own tokenizer, truncating and never padding; loaded with the first text."""

    def __init__(self, reading: Reading) -> None:
        reading.check()
        self._reading = reading
        self._lock = threading.Lock()
        self._loaded: tuple[Any, _Facts] | None = None
        self._failed: ConfigError | None = None
        self._longest = positions_of(read_json(reading.folder / "config.json"))

    @property
    def limit(self) -> int:
        """Tokens kept of a text."""
        return self._limit(self.facts)

    @property
    def other_limit(self) -> int | None:
        """Tokens kept of a text where that is not what its library would keep; None where it is.

        The job may say so; and a library that would feed more tokens than there are positions fails by itself.
        """
        return None if self.limit == self.facts.limit else self.limit

    @property
    def facts(self) -> _Facts:
        return self._load()[1]

    def __call__(self, texts: pa.ChunkedArray | pa.Array) -> TextFeatures:
        """Tokenize one column; nulls, and texts of which no token comes, are rejected."""
        nulls = np.asarray(texts.is_null())
        filled = pc.fill_null(texts.cast(pa.large_string()), "").to_pylist()
        encoded = self._encode([self._reading.prompt + text for text in filled] if self._reading.prompt else filled)
        lengths = np.fromiter((len(one) for one in encoded), dtype=np.int64, count=len(encoded))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.empty(int(offsets[-1]), dtype=np.int64)
        for i, one in enumerate(encoded):
            ids[offsets[i] : offsets[i + 1]] = _ids(one)
        rejected = {int(i): "the text has no tokens" for i in np.flatnonzero(lengths == 0)}
        rejected |= {int(i): "text is null" for i in np.flatnonzero(nulls)}
        return TextFeatures(
            rows=len(encoded),
            lengths=lengths,
            longest=self._longest,
            rejected=rejected,
            ids=ids,
            offsets=offsets,
            pad_id=self.facts.pad_id,
            limit=self.limit,
            unknown_id=self._unknown_id(),
        )

    def _unknown_id(self) -> int | None:
        tokenizer, facts = self._load()
        if not facts.fast:
            return tokenizer.unk_token_id
        unknown = getattr(tokenizer.model, "unk_token", None)
        return None if unknown is None else tokenizer.token_to_id(unknown)

    def _encode(self, texts: list[str]) -> list[Any]:
        """Return each text's encoding: of `tokenizers`, or a list of token ids."""
        tokenizer, facts = self._load()
        if not texts:
            return []
        if facts.fast:
            encoded: list[Any] = tokenizer.encode_batch_fast(texts)
        else:
            encoded = tokenizer(texts, truncation=True, max_length=self._limit(facts))["input_ids"]
        return encoded

    def prompt_tokens(self) -> int:
        """Return how many of a text's tokens are its prompt's, as sentence-transformers counts them.

        A special token that ends the prompt alone ends the text, too, and is not counted.
        """
        tokens = _ids(self._encode([self._reading.prompt])[0])
        return len(tokens) - (bool(tokens) and tokens[-1] in self.facts.special_ids)

    def _load(self) -> tuple[Any, _Facts]:
        with self._lock:
            if self._failed:  # it would fail for every row that is tried
                raise self._failed
            if self._loaded is None:
                try:
                    self._loaded = self._ready()
                except ConfigError as error:
                    self._failed = error
                    raise
            return self._loaded

    def _ready(self) -> tuple[Any, _Facts]:
        # The Rust tokenizer starts a thread per core unless told not to: with one replica a core they would fight.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer, facts = _read(self._reading)
        limit = self._limit(facts)
        if facts.fast:
            tokenizer.encode_special_tokens = facts.split
            tokenizer.enable_truncation(limit, direction=facts.side)
            tokenizer.no_padding()
        return tokenizer, facts

    def _limit(self, facts: _Facts) -> int:
        limits = [n for n in (self._reading.max_length or facts.limit, self._longest) if n]
        if not limits:
            raise ConfigError(f"{self._reading.folder} does not say how long a text may be; set model.max_length")
        if min(limits) <= facts.special:
            raise ConfigError(
                f"{min(limits)} tokens leave no room for a text beside the tokenizer's {facts.special} special ones; "
                "raise model.max_length"
            )
        return min(limits)


def _ids(encoded: Any) -> list[int]:
    ids: list[int] = encoded if isinstance(encoded, list) else encoded.ids
    return ids


def _read(reading: Reading) -> tuple[Any, _Facts]:
    """Return the tokenizer that was written down for this model, or load it with transformers and write it down."""
    from tokenizers import Tokenizer

    shaped_by = [reading.key, reading.meant, reading.lower, reading.capped]
    shaped_by += [installed(name) for name in ("transformers", "tokenizers")]
    name = hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16]
    path, facts_path = (home.home() / "tokenizers" / f"{name}{end}" for end in (".json", ".facts.json"))
    if facts_path.is_file():
        try:
            return Tokenizer.from_file(str(path)), _Facts(**json.loads(facts_path.read_text(encoding="utf-8")))
        except Exception:  # damaged: made again below
            pass
    loaded, facts = _from_transformers(reading)
    if not facts.fast:
        return loaded, facts
    text = loaded.backend_tokenizer.to_str()
    try:
        home.put(path, text.encode())
        home.put(facts_path, json.dumps(vars(facts)).encode())  # last: says that the other is there
    except OptinferError:
        pass  # a home that cannot be written to costs time only
    return Tokenizer.from_str(text), facts  # what all who come later read, too


def _from_transformers(reading: Reading) -> tuple[Any, _Facts]:
    """Load a tokenizer as the model's own library does: from the folder alone, no network, no code of the folder."""
    hush()
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(reading.folder, **options)
        given = {} if reading.meant is None else {"model_max_length": reading.meant}
        tokenizer = AutoTokenizer.from_pretrained(reading.folder, **options, **given)
    except Exception as error:
        raise ConfigError(
            f"transformers cannot load the tokenizer in {reading.folder}: {type(error).__name__}: {error}; "
            "save it with tokenizer.save_pretrained(folder)"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ConfigError(
            f"the tokenizer in {reading.folder} knows no words; save it with tokenizer.save_pretrained(folder)"
        )
    if reading.lower:
        _lower(tokenizer)
    return tokenizer, _facts(tokenizer, config, reading)


def _facts(tokenizer: Any, config: Any, reading: Reading) -> _Facts:
    limit = as_limit(tokenizer.model_max_length)
    cap = getattr(config, "max_position_embeddings", -1)
    if reading.capped and reading.meant is None and cap and cap > 0:
        limit = min(limit or cap, cap)
    types = "token_type_ids" in tokenizer.model_input_names
    if types and any(tokenizer("a text").get("token_type_ids", ())):
        raise ConfigError(
            f"the tokenizer in {reading.folder} gives token types other than 0, which optinfer cannot feed"
        )
    pad_ids = [n for n in (getattr(config, "pad_token_id", None), tokenizer.pad_token_id) if n is not None and n >= 0]
    return _Facts(
        limit=limit,
        side=tokenizer.truncation_side,
        pad_id=int(pad_ids[0]) if pad_ids else 0,
        special=tokenizer.num_special_tokens_to_add(),
        special_ids=sorted(set(tokenizer.all_special_ids)),
        types=types,
        split=bool(tokenizer.split_special_tokens),
        fast=bool(tokenizer.is_fast),
    )


def _lower(tokenizer: Any) -> None:
    """Lower-case what a tokenizer reads, before anything else it does (sentence-transformers' `do_lower_case`)."""
    from tokenizers.normalizers import Lowercase, Sequence

    if not tokenizer.is_fast:
        raise ConfigError(f"do_lower_case needs a fast tokenizer, {type(tokenizer).__name__} is none")
    backend = tokenizer.backend_tokenizer
    normalizer: Any = backend.normalizer
    parts: list[Any] = [normalizer]
    if isinstance(backend.normalizer, Sequence):
        parts = [normalizer[i] for i in range(len(normalizer))]
    if not any(isinstance(part, Lowercase) for part in parts):
        backend.normalizer = Sequence([Lowercase(), *(part for part in parts if part is not None)])
