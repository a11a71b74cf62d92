"""Folders and jobs that are refused before anything heavy loads: what is changed in a good folder, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optinfer.families._text import NOT_SUPPORTED
from tests.conformance.text_models import CLASSIFICATION, EMBEDDING

Change = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A change to a good folder (of sentence-transformers, or a classifier's) and a pattern of what is said."""

    name: str
    says: str
    change: Change = lambda folder: None
    family: str = EMBEDDING
    settings: dict[str, Any] = field(default_factory=dict)


def setting(file: str, **values: Any) -> Change:
    """Return what sets keys of a JSON file of the folder; a value of None is written as null."""

    def change(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**content, **values}))

    return change


def without(file: str, *keys: str) -> Change:
    """Return what removes keys of a JSON file, or the file."""

    def change(folder: Path) -> None:
        if not keys:
            (folder / file).unlink()
            return
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if key not in keys}))

    return change


def modules(*types: str, paths: tuple[str, ...] = (), **more: Any) -> Change:
    """Return what writes modules.json anew: types of layers, their folders as they are in the good one."""

    def change(folder: Path) -> None:
        named = paths or ("", "1_Pooling", "2_Dense", "3_Normalize")
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": kind, **more}
            for i, (kind, path) in enumerate(zip(types, named, strict=False))
        ]
        (folder / "modules.json").write_text(json.dumps(entries))

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


_ST = "sentence_transformers.models."
_T, _P, _D, _N = (f"{_ST}{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize"))
_BERT_CONFIG, _OWN = "sentence_bert_config.json", "config_sentence_transformers.json"
_MESSAGE = {"method": "forward", "method_output_name": "last_hidden_state", "format": "flat"}


def _kinds() -> list[Refusal]:
    return [
        Refusal(
            name=f"a {kind} model", change=setting("config.json", model_type=kind), says=f"{kind} model.*not supported"
        )
        for kind in sorted(NOT_SUPPORTED)
    ]


def _folders() -> list[Refusal]:
    adapter = setting("adapter_config.json", peft_type="LORA")
    code = {"AutoModel": "modeling.Own"}
    return [
        Refusal(name="an adapter", change=adapter, says="adapter of another model.*merge"),
        Refusal(name="own code", change=setting("config.json", auto_map=code), says="config.json sets 'auto_map'"),
        Refusal(
            name="own tokenizer code",
            change=setting("tokenizer_config.json", auto_map={"AutoTokenizer": ["t.Own", None]}),
            says="tokenizer_config.json sets 'auto_map'",
        ),
        Refusal(
            name="quantized weights",
            change=setting("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
            says="'quantization_config': quantized weights",
        ),
        Refusal(name="more than texts", change=setting("config.json", vision_config={"a": 1}), says="'vision_config'"),
        Refusal(name="no tokenizer", change=both(without("tokenizer.json")), says="lacks tokenizer.json"),
        Refusal(
            name="a chat template",
            change=both(without("modules.json"), setting("tokenizer_config.json", chat_template="{{ x }}")),
            says="chat template",
        ),
        Refusal(
            name="no length",
            change=both(
                setting("config.json", model_type="t5"),
                without("config.json", "max_position_embeddings"),
                without("tokenizer_config.json", "model_max_length"),
            ),
            says="does not say how long a text may be; set model.max_length",
        ),
        Refusal(name="no width", change=both(modules(_T, _P), without("config.json", "hidden_size")), says="no width"),
        Refusal(name="no JSON", change=lambda f: (f / _OWN).write_text("{"), says="cannot be read as JSON"),
    ]


def _sentence() -> list[Refusal]:
    return [
        Refusal(name="an LSTM", change=modules(_T, f"{_ST}LSTM"), says="LSTM; known"),
        Refusal(name="static words", change=modules(f"{_ST}StaticEmbedding"), says="StaticEmbedding; known"),
        Refusal(name="a router", change=modules(f"{_ST}Router"), says="Router; known"),
        Refusal(name="weighted layers", change=modules(_T, f"{_ST}WeightedLayerPooling"), says="WeightedLayerPooling"),
        Refusal(name="a foreign layer", change=modules(_T, "own.Pooling"), says=r"own\.Pooling; known"),
        Refusal(name="no pooling", change=modules(_T), says="has the layers Transformer; known"),
        Refusal(name="two poolings", change=modules(_T, _P, _P, paths=("", "1_Pooling", "1_Pooling")), says="layers"),
        Refusal(
            name="dense before pooling", change=modules(_T, _D, _P, paths=("", "2_Dense", "1_Pooling")), says="layers"
        ),
        Refusal(
            name="the transformer elsewhere",
            change=modules(_T, _P, paths=("0_Transformer", "1_Pooling")),
            says="keeps the transformer in .*0_Transformer",
        ),
        Refusal(
            name="a layer without settings", change=without("1_Pooling/config.json"), says="says what the layer does"
        ),
        Refusal(name="a way out", change=modules(_T, _P, paths=("", "../1_Pooling")), says="leads out of the folder"),
        Refusal(
            name="a layer's arguments", change=modules(_T, _P, kwargs=["task"]), says=r"modules.json sets 'kwargs'"
        ),
        Refusal(
            name="an unknown pooling", change=setting("1_Pooling/config.json", pooling_mode="median"), says="'median'"
        ),
        Refusal(
            name="an unknown key of the pooling",
            change=setting("1_Pooling/config.json", temperature=2),
            says=r"1_Pooling/config.json sets 'temperature' to 2",
        ),
        Refusal(
            name="a foreign activation",
            change=setting("2_Dense/config.json", activation_function="own.Activation"),
            says=r"asks for the activation own\.Activation",
        ),
        Refusal(
            name="dense over tokens",
            change=setting("2_Dense/config.json", module_input_name="token_embeddings"),
            says="'module_input_name' to \"token_embeddings\"",
        ),
        Refusal(
            name="tokens normalized",
            change=setting("3_Normalize/config.json", module_input_name="token_embeddings"),
            says="'module_input_name'",
        ),
        Refusal(
            name="a cross encoder", change=setting(_OWN, model_type="CrossEncoder"), says="'model_type'.*CrossEncoder"
        ),
        Refusal(name="a sparse encoder", change=setting(_OWN, model_type="SparseEncoder"), says="SparseEncoder"),
        Refusal(
            name="an unknown key",
            change=setting(_OWN, embedding_scale=2.0),
            says=f"{_OWN} sets 'embedding_scale' to 2.0",
        ),
        Refusal(
            name="an unknown default prompt",
            change=setting(_OWN, default_prompt_name="passages", prompts={"passage": "passage: "}),
            says="no prompt 'passages'.*did you mean 'passage'",
        ),
        Refusal(
            name="chat messages",
            change=setting(_BERT_CONFIG, modality_config={"message": _MESSAGE}),
            says="'modality_config' to feed message",
        ),
        Refusal(
            name="another task", change=setting(_BERT_CONFIG, transformer_task="fill-mask"), says="'transformer_task'"
        ),
        Refusal(
            name="arguments of the tokenizer's call",
            change=setting(_BERT_CONFIG, processing_kwargs={"text": {"max_length": 8}}),
            says="'processing_kwargs'",
        ),
        Refusal(
            name="arguments of the model", change=setting(_BERT_CONFIG, model_args={"gelu": 1}), says="'model_args'"
        ),
        Refusal(
            name="arguments of the tokenizer",
            change=setting(_BERT_CONFIG, tokenizer_args={"a": 1}),
            says="'tokenizer_args'",
        ),
    ]


def _jobs() -> list[Refusal]:
    return [
        Refusal(name="more tokens than positions", settings={"max_length": 65}, says="max_length 65 .* 64 positions"),
        Refusal(
            name="more numbers than there are", settings={"truncate_dim": 17}, says="truncate_dim 17 .* 16 numbers"
        ),
        Refusal(name="a prompt that is not there", settings={"prompt_name": "qery"}, says="no prompt 'qery'.*'query'"),
        Refusal(
            name="a prompt by name where there are none",
            change=setting(_OWN, prompts={}),
            settings={"prompt_name": "query"},
            says="it has none, give model.prompt",
        ),
        Refusal(
            name="a prompt by name of a classifier",
            family=CLASSIFICATION,
            settings={"prompt_name": "query"},
            says="it has none, give model.prompt",
        ),
        Refusal(
            name="a model without a head",
            family=CLASSIFICATION,
            change=setting("config.json", architectures=["BertModel"]),
            says="not a sequence classifier",
        ),
        Refusal(
            name="no padding token",
            family=CLASSIFICATION,
            change=setting("config.json", pad_token_id=None),
            says="has no pad_token_id",
        ),
        Refusal(name="more classes than there are", family=CLASSIFICATION, settings={"top_k": 4}, says="top_k 4"),
        Refusal(
            name="classes with a gap",
            family=CLASSIFICATION,
            change=setting("config.json", id2label={"0": "a", "2": "b"}),
            says="does not name its classes",
        ),
    ]


REFUSALS = [*_kinds(), *_folders(), *_sentence(), *_jobs()]
