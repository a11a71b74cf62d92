"""A folder as sentence-transformers writes it, read without that library: what is before and after the transformer.

`modules.json` names the layers in order; what each does is in its folder's config.json. What is put before a text, how
long it may be and how many numbers of the vector are kept lies in two more files. A folder without modules.json is a
plain transformer: pooled by the mean over its tokens, a language model by its last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.families._settings import read_any_json, read_json, refuse_unknown, says_nothing

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# In the order in which that library puts them side by side.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Without parameters, and exported by every converter.
ACTIVATIONS = (
    *("ELU", "GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid"),
    *("Softplus", "Softsign", "Tanh"),
)
_TRANSFORMER, _LIBRARY = "Transformer", "sentence_transformers."
_KNOWN = (_TRANSFORMER, "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_VECTOR = {"module_input_name": ("sentence_embedding",), "module_output_name": ("sentence_embedding",)}
# What configures the transformer, under the names that older versions gave it; the first that is there counts.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd", "emb_dim")


@dataclass(frozen=True)
class Layer:
    """A layer after the transformer: `Pooling`, `Dense`, `LayerNorm` or `Normalize`, with its own settings."""

    kind: str
    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What sentence-transformers' files say of a model.

    Attributes:
        layers: those after the transformer, in order.
        max_length: tokens kept of a text, where the files say so.
        lower: texts are lower-cased first.
        prompts: what is put before a text, by name.
        default_prompt: the name of the one that is used where a job names none.
        truncate: how many numbers of the vector are kept, where the files say so.
        named: whether the folder is one of sentence-transformers at all.
    """

    layers: tuple[Layer, ...]
    max_length: int | None = None
    lower: bool = False
    prompts: dict[str, str]
    default_prompt: str | None = None
    truncate: int | None = None
    named: bool = True

    def prompt(self, folder: Path, text: str | None, name: str | None) -> str:
        """Return what is put before every text: the job's text, the named one, or the folder's default.

        Raises:
            ConfigError: the folder has no prompt of that name.
        """
        if text is not None:
            return text
        chosen = name or self.default_prompt
        if chosen is None:
            return ""
        if chosen not in self.prompts:
            known = suggest(chosen, list(self.prompts)) if self.prompts else "; it has none, give model.prompt: a text"
            where = "model.prompt_name" if name else f"default_prompt_name of {folder}"
            raise ConfigError(f"{where}: the model has no prompt {chosen!r}{known}")
        return self.prompts[chosen]


def read_sentence(folder: Path) -> Sentence:
    """Read a folder's files.

    Raises:
        ConfigError: they ask for something that is not done here; names file and key.
    """
    if not (folder / "modules.json").is_file():
        pooling = "lasttoken" if _writes_text(folder) else "mean"
        if not says_nothing(_chat_template(folder)):
            raise ConfigError(
                f"{folder} has a chat template, with which sentence-transformers writes a message around every text; "
                "save the model with sentence-transformers as it is meant to be used, or remove the template"
            )
        return Sentence(layers=(Layer("Pooling", folder, {"pooling_mode": pooling}),), prompts={}, named=False)
    path = folder / "config_sentence_transformers.json"
    own = read_json(path)
    refuse_unknown(
        path,
        own,
        applied=("prompts", "default_prompt_name", "truncate_dim"),
        harmless=("__version__", "similarity_fn_name", "requirements"),
        only={"model_type": ("SentenceTransformer",)},
    )
    transformer = _transformer_settings(folder)
    return Sentence(
        layers=_layers(folder),
        max_length=transformer.get("max_seq_length"),
        lower=bool(transformer.get("do_lower_case")),
        prompts={name: text or "" for name, text in (own.get("prompts") or {}).items()},
        default_prompt=own.get("default_prompt_name"),
        truncate=own.get("truncate_dim"),
    )


def _chat_template(folder: Path) -> Any:
    if (folder / "chat_template.jinja").is_file():
        return "chat_template.jinja"
    return read_json(folder / "tokenizer_config.json").get("chat_template")


def _writes_text(folder: Path) -> bool:
    """Tell a language model that reads from left to right, whose last token has seen all of the text."""
    config = read_json(folder / "config.json")
    architectures = config.get("architectures") or [""]
    return bool(architectures[0].endswith("ForCausalLM") and config.get("is_causal", True))


def _transformer_settings(folder: Path) -> dict[str, Any]:
    path = next(
        (folder / name for name in _TRANSFORMER_FILES if read_json(folder / name)), folder / _TRANSFORMER_FILES[0]
    )
    content = read_json(path)
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    for kind, how in (content.get("modality_config") or {}).items():
        if kind != "text" or how != plain:
            raise ConfigError(
                f"{path} sets 'modality_config' to feed {kind} by {how}; optinfer feeds texts to its forward only"
            )
    refuse_unknown(
        path,
        content,
        applied=("max_seq_length", "do_lower_case", "modality_config"),
        # How a GPU packs rows; lengths for encode_query and encode_document, which nobody calls here.
        harmless=("unpad_inputs", "query_length", "document_length"),
        only={"transformer_task": ("feature-extraction",), "module_output_name": ("token_embeddings",)},
    )
    return content


def _layers(folder: Path) -> tuple[Layer, ...]:
    """Return the layers that follow the transformer, in an order that makes a vector of its tokens."""
    modules = folder / "modules.json"
    entries = read_any_json(modules)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "type" in e and "path" in e for e in entries):
        raise ConfigError(
            f"{modules} is not the list of layers that sentence-transformers writes; save the model again"
        )
    layers = [_layer(folder, modules, entry) for entry in entries]
    kinds = [layer.kind for layer in layers]
    if kinds[:2] != [_TRANSFORMER, "Pooling"] or kinds.count(_TRANSFORMER) > 1 or kinds.count("Pooling") > 1:
        raise ConfigError(
            f"{modules} has the layers {', '.join(kinds) or 'none'}; known: {_TRANSFORMER}, Pooling, then any of "
            f"{', '.join(_KNOWN[2:])}"
        )
    if layers[0].folder != folder:
        raise ConfigError(f"{modules} keeps the transformer in {layers[0].folder}; move its files to {folder}, path ''")
    return tuple(layer for layer in layers[1:] if layer.kind != "Dropout")


def _layer(folder: Path, modules: Path, entry: dict[str, Any]) -> Layer:
    refuse_unknown(modules, entry, applied=("type", "path"), harmless=("idx", "name"))
    kind = entry["type"].rpartition(".")[2]
    if kind not in _KNOWN or not entry["type"].startswith(_LIBRARY):
        raise ConfigError(f"{modules} has a layer {entry['type']}; known: {', '.join(_KNOWN)} of sentence_transformers")
    if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
        raise ConfigError(f"{modules} names {entry['path']!r}, which leads out of the folder; correct it")
    path = folder / entry["path"] / "config.json"
    if kind in ("Pooling", "Dense", "LayerNorm") and not path.is_file():
        raise ConfigError(f"{path}, which says what the layer does, is not there; save the model again")
    config = {} if kind == _TRANSFORMER else read_json(path)
    _CHECKS.get(kind, lambda path, config: None)(path, config)
    return Layer(kind, folder / entry["path"], config)


def _check_pooling(path: Path, config: dict[str, Any]) -> None:
    widths = ("word_embedding_dimension", "embedding_dimension")
    refuse_unknown(path, config, applied=(*widths, "pooling_mode", *_FLAGS, "include_prompt"))
    if bad := [mode for mode in poolings_of(config) if mode not in POOLINGS]:
        raise ConfigError(f"{path} asks for pooling {bad[0]!r}; known: {', '.join(POOLINGS)}")


def _check_dense(path: Path, config: dict[str, Any]) -> None:
    applied = ("in_features", "out_features", "bias", "activation_function", "use_residual")
    refuse_unknown(path, config, applied=applied, only=_VECTOR)
    if missing := [name for name in applied[:2] if name not in config]:
        raise ConfigError(f"{path} lacks {missing[0]!r}; save the model again")
    activation_of(path, config)


def _check_normalize(path: Path, config: dict[str, Any]) -> None:
    refuse_unknown(path, config, applied=(), only=_VECTOR)


def _check_layer_norm(path: Path, config: dict[str, Any]) -> None:
    refuse_unknown(path, config, applied=("dimension",))


_CHECKS = {
    "Pooling": _check_pooling,
    "Dense": _check_dense,
    "Normalize": _check_normalize,
    "LayerNorm": _check_layer_norm,
}


def poolings_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Return a pooling layer's modes: newer folders name one or several, older ones have a flag for each."""
    if not says_nothing(config.get("pooling_mode")):
        named = config["pooling_mode"]
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(mode for flag, mode in _FLAGS.items() if config.get(flag)) or ("mean",)


def activation_of(path: Path, config: dict[str, Any]) -> str:
    """Return the name of a dense layer's activation; where the file has none, it is the layer's default, Tanh."""
    named = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = str(named).rpartition(".")[2]
    if name not in ACTIVATIONS or not str(named).startswith("torch.nn."):
        raise ConfigError(f"{path} asks for the activation {named}; known: torch.nn's {', '.join(ACTIVATIONS)}")
    return name


def excludes_prompt(layers: tuple[Layer, ...]) -> bool:
    """Tell whether the pooling leaves the prompt's tokens out."""
    return not layers[0].config.get("include_prompt", True)


def width_of(folder: Path, layers: tuple[Layer, ...]) -> int:
    """Return how many numbers come out of the last layer."""
    for layer in reversed(layers):
        if layer.kind == "Dense":
            return int(layer.config["out_features"])
    config = read_json(folder / "config.json")
    # OPT's last layer projects to the width of its words.
    named = next((config[key] for key in ("word_embed_proj_dim", *_WIDTHS) if isinstance(config.get(key), int)), None)
    if named is None:
        raise ConfigError(f"{folder}/config.json names no width ({', '.join(_WIDTHS)}): not a transformer folder")
    return int(named) * len(poolings_of(layers[0].config))
