"""A text model's folder: what must be in it, what is refused, and how its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from optinfer.errors import ConfigError
from optinfer.families import Columns
from optinfer.families._settings import read_json, says_nothing
from optinfer.models.artifact import Artifact

INPUTS = ("input_ids", "attention_mask")
_VOCABULARIES = ("tokenizer.json", "vocab.", "spiece.", "sentencepiece.")
_OWN_CODE = "code of a model's folder is never run; remove the key if transformers' own class gives the same answers"
_PARTS = "optinfer feeds texts alone; save the text model apart"
_NOT_READ = {
    "config.json": {
        "auto_map": _OWN_CODE,
        "quantization_config": "quantized weights are not read; give the model as it was before",
        "text_config": _PARTS,
        "vision_config": _PARTS,
        "audio_config": _PARTS,
    },
    "tokenizer_config.json": {"auto_map": _OWN_CODE},
}
_MIXES = "its answers depend on how far rows are padded, so on a row's neighbours"
_DRAWS = "it attends to blocks drawn at random or by length, so a row's answer is not the same twice"
# Held against transformers, row by row and in company (tests/conformance).
NOT_SUPPORTED = {
    "big_bird": _DRAWS,
    "canine": "it reads characters and pools them by length",
    "convbert": _MIXES,
    "fnet": "it has no mask: padding is read as text",
    "funnel": "it halves a text's length on the way, which short texts do not survive",
    "mobilebert": _MIXES,
    "mra": _DRAWS,
    "nystromformer": _DRAWS,
    "perceiver": "it takes bytes",
    "reformer": _DRAWS,
    "xlnet": "it classifies by the last column, which padding takes",
    "yoso": _DRAWS,
}
DYNAMIC_AXES = {name: {0: "batch", 1: "sequence"} for name in INPUTS}


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
    folder = Path(model.path)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.path {folder} lacks config.json; save model and tokenizer with save_pretrained")
    if not any(file.name.startswith(_VOCABULARIES) or file.suffix == ".model" for file in folder.iterdir()):
        raise ConfigError(f"model.path {folder} lacks tokenizer.json; save model and tokenizer with save_pretrained")
    refuse_other_readers(folder)
    return folder


def refuse_other_readers(folder: Path) -> None:
    """Refuse a folder that another loader than transformers' own turns into the model.

    Raises:
        ConfigError: it brings its own code, is an adapter or quantized, or takes more than texts.
    """
    if (adapter := folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{adapter} makes this an adapter of another model; merge the two (merge_and_unload) and save"
        )
    for name, keys in _NOT_READ.items():
        content = read_json(folder / name)
        for key, why in keys.items():
            if not says_nothing(content.get(key)):
                raise ConfigError(f"{folder / name} sets {key!r}: {why}")
    kind = read_json(folder / "config.json").get("model_type")
    if kind in NOT_SUPPORTED:
        raise ConfigError(f"{folder} is a {kind} model, which is not supported: {NOT_SUPPORTED[kind]}")


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


def load_encoder(folder: Path, auto_class: str, **options: Any) -> Any:
    """Load a transformers model, fp32, from the folder alone: no network, no code from the folder, no pickles.

    Raises:
        ConfigError: transformers cannot load it, or would give it random weights where the folder has none.
    """
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # Without any, the job allowed its pickled weights (models/source.py).
    safe = any(folder.glob("*.safetensors"))
    fixed = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, loading = getattr(transformers, auto_class).from_pretrained(
            folder, use_safetensors=safe, dtype=torch.float32, **fixed, **options
        )
    except MemoryError:
        raise
    except Exception as error:
        raise ConfigError(
            f"transformers cannot load the model in {folder}: {type(error).__name__}: {error}; check that it is whole, "
            "or save it with save_pretrained(folder)"
        ) from error
    # A model without a head has a pooler after what is used of it; a head may stand on it.
    unused = "pooler." if "For" not in auto_class else "\0"
    if missing := sorted(name for name in loading["missing_keys"] if unused not in name):
        raise ConfigError(
            f"{folder} lacks the weights {', '.join(missing[:3])}{' and more' * (len(missing) > 3)} of "
            f"{type(model).__name__}: they would be random; give a folder that holds all of them"
        )
    return model
