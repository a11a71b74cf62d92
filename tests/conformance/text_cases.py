"""Every text model of the suite, by name: each architecture plainly, then each thing that a folder or a job can say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.conformance.text_models import (
    ARCHITECTURES,
    CLASSIFICATION,
    DECODERS,
    EMBEDDING,
    LIMIT,
    Case,
    layer,
    pooling,
    sentence,
)

Build = Callable[[Path], object]
_HEAD = "ForSequenceClassification"
_THREE = {"id2label": {0: "bad", 1: "so so", 2: "good"}}
_PROMPTS = {"query": "query: ", "passage": "passage: "}
_NORMALIZE = layer("Normalize")


def plain(architecture: str, head: str = "Model", **options: Any) -> Build:
    return lambda folder: ARCHITECTURES[architecture].made(folder, head, **options)


def classifier(architecture: str, **options: Any) -> Build:
    return plain(architecture, _HEAD, **{**_THREE, **options})


def changed(build: Build, name: str, **settings: Any) -> Build:
    """Return what builds a folder and changes keys of one of its JSON files; None removes one."""

    def rebuilt(folder: Path) -> None:
        build(folder)
        content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        content = {key: value for key, value in {**content, **settings}.items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return rebuilt


def stored(build: Build, head: str, dtype: str = "float32", shard: str = "50GB") -> Build:
    """Return what builds a folder and saves its weights in another type or in several files."""

    def rebuilt(folder: Path) -> None:
        import torch
        import transformers

        build(folder)
        kind = getattr(transformers, head)
        model = kind.from_pretrained(folder, dtype=torch.float32).to(getattr(torch, dtype))
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size=shard)
        assert (shard == "50GB") == (folder / "model.safetensors").is_file()

    return rebuilt


def older(folder: Path, **settings: Any) -> None:
    """Build a folder as sentence-transformers 2 wrote it: other names of types and keys, flags for the pooling."""
    ARCHITECTURES["Bert"].made(folder, tokens={"do_lower_case": False})
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    flags = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"), False)
    pooled = {"word_embedding_dimension": 32, **{f"pooling_mode_{name}": on for name, on in flags.items()}}
    dense = {"in_features": 64, "out_features": 16, "bias": True}  # no activation: Tanh is that library's default
    for path, content in (
        ("1_Pooling", {**pooled, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
        ("2_Dense", dense),
        ("3_Normalize", None),
    ):
        (folder / path).mkdir()
        if content:
            (folder / path / "config.json").write_text(json.dumps(content))
    _random_dense(folder / "2_Dense", 64, 16)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    own = {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.30.0", "pytorch": "2.0.1"}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**own, **settings}))


def _random_dense(folder: Path, wide: int, narrow: int) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(2)
    weights = {"linear.weight": torch.randn(narrow, wide), "linear.bias": torch.randn(narrow)}
    save_file(weights, folder / "model.safetensors")


def without_file(build: Build, name: str, vocabulary: str) -> Build:
    """Return what builds a folder that has a plain vocabulary in the tokenizer's place."""

    def rebuilt(folder: Path) -> None:
        build(folder)
        known = json.loads((folder / name).read_text())["model"]["vocab"]
        (folder / vocabulary).write_text("\n".join(sorted(known, key=known.__getitem__)) + "\n")
        (folder / name).unlink()

    return rebuilt


def classes_of_sentence(folder: Path) -> None:
    """Build a sentence-transformers folder that ends in a classifier."""
    dense = layer("Dense", in_features=32, out_features=3, activation="Identity")
    sentence("Bert", pooling("mean"), dense)(folder)
    changed(lambda folder: None, "config.json", **{"id2label": {"0": "x", "1": "y", "2": "z"}})(folder)


def _embedding(name: str, build: Build, architecture: str = "Bert", **more: Any) -> Case:
    return Case(name=name, architecture=architecture, family=EMBEDDING, build=build, **more)


def _classes(name: str, build: Build, architecture: str = "Bert", **more: Any) -> Case:
    return Case(name=name, architecture=architecture, family=CLASSIFICATION, build=build, **more)


def _architectures() -> list[Case]:
    """Return a vector model and a classifier of each architecture."""
    cases = []
    for name in ARCHITECTURES:
        none = {"no_tokens": 1} if name == "GPT2" else {}
        last = sentence(name, pooling("lasttoken"), _NORMALIZE)
        cases.append(
            _embedding(
                "last token" if name in DECODERS else "mean", last if name in DECODERS else plain(name), name, **none
            )
        )
        cases.append(_classes("three classes", classifier(name), name, **none))
    return cases


_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_left = {"tokens": {"padding_side": "left"}}
_cut_left = {"tokens": {"truncation_side": "left"}}
_no_limit = {"tokens": {"model_max_length": None}}


def _folders() -> list[Case]:
    """Return vector models for each thing that sentence-transformers writes."""
    dense = partial(layer, "Dense", in_features=32)
    bert = partial(sentence, "Bert")
    mean = pooling("mean")
    cases = [_embedding(f"pooling {mode}", bert(pooling(mode))) for mode in _MODES]
    cases += [
        _embedding("poolings side by side", bert(pooling(("mean", "max", "cls")))),
        _embedding("dense tanh", bert(mean, dense(out_features=16))),
        _embedding("dense without bias", bert(mean, dense(out_features=16, bias=False, activation="Identity"))),
        _embedding("dense gelu, added", bert(mean, dense(out_features=32, activation="GELU", use_residual=True))),
        _embedding("dense, added by a layer", bert(mean, dense(out_features=16, use_residual=True))),
        _embedding(
            "layer norm, dropout, normalize", bert(mean, layer("LayerNorm", dimension=32), layer("Dropout"), _NORMALIZE)
        ),
        _embedding("default prompt", bert(mean, prompts=_PROMPTS, default_prompt_name="passage")),
        _embedding("named prompt", bert(mean, prompts=_PROMPTS), settings={"prompt_name": "query"}),
        _embedding(
            "own prompt", bert(mean, prompts=_PROMPTS, default_prompt_name="query"), settings={"prompt": "to find: "}
        ),
        _embedding("no prompt", bert(mean, prompts=_PROMPTS, default_prompt_name="query"), settings={"prompt": ""}),
        _embedding("truncated", bert(mean, _NORMALIZE, truncate_dim=8)),
        _embedding("truncated by the job", bert(mean, _NORMALIZE, truncate_dim=8), settings={"truncate_dim": 5}),
        _embedding("files of version 2", older),
        _embedding("files of version 2, prompt", partial(older, prompts=_PROMPTS, default_prompt_name="query")),
    ]
    for mode in ("mean", "cls", "weightedmean", "max"):
        left_out = bert(pooling(mode, include_prompt=False), prompts=_PROMPTS, default_prompt_name="query")
        cases.append(_embedding(f"prompt left out, {mode}", left_out))
    return cases


def _limits() -> list[Case]:
    """Return models whose texts are cut elsewhere or padded on the other side."""
    language = plain("Llama", "ForCausalLM")
    return [
        _embedding("cut on the left", plain("Bert", **_cut_left)),
        _embedding("max_length of the job", plain("Bert"), settings={"max_length": 9}),
        _embedding("no limit but the positions", plain("Roberta", **_no_limit), "Roberta", other_limit=LIMIT),
        _embedding("no limit but the config's", plain("ModernBert", **_no_limit), "ModernBert"),
        _embedding("padded on the left, mean", plain("GPT2", **_left), "GPT2", no_tokens=1),
        _embedding("padded on the left, last", sentence("GPT2", pooling("lasttoken"), **_left), "GPT2", no_tokens=1),
        _embedding("a language model as it is", language, "Llama"),
        _embedding("token types are fed", plain("GPT2", tokens=_WITH_TYPES), "GPT2", no_tokens=1),
        _embedding("vocabulary alone", without_file(plain("Bert"), "tokenizer.json", "vocab.txt")),
        _classes("cut on the left", classifier("Bert", **_cut_left)),
        _classes("max_length of the job", classifier("DebertaV2"), "DebertaV2", settings={"max_length": 9}),
        _classes("no limit but the positions", classifier("Roberta", **_no_limit), "Roberta", other_limit=LIMIT),
        _classes("padded on the left", classifier("GPT2", **_left), "GPT2", no_tokens=1),
    ]


_WITH_TYPES = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}


def _weights() -> list[Case]:
    """Return models stored in several files, or in half precision."""
    head = "BertForSequenceClassification"
    cases = []
    for name, how in (("sharded", {"shard": "20KB"}), ("bf16", {"dtype": "bfloat16"}), ("fp16", {"dtype": "float16"})):
        cases.append(_embedding(f"{name} file", stored(plain("Bert"), "BertModel", **how)))
        cases.append(_classes(f"{name} file", stored(classifier("Bert"), head, **how)))
    return cases


def _answers() -> list[Case]:
    """Return classifiers for each meaning of their numbers."""
    bert = partial(plain, "Bert", _HEAD)
    regression = {"problem_type": "regression"}
    return [
        _classes("two classes without names", changed(bert(), "config.json", id2label=None, label2id=None)),
        _classes("one class", bert(num_labels=1)),
        _classes("regression", bert(num_labels=1, **regression)),
        _classes("regression of three numbers", bert(**_THREE, **regression), settings={"top_k": 3}),
        _classes("multi-label", bert(**_THREE, problem_type="multi_label_classification"), settings={"top_k": 3}),
        _classes("all classes", bert(**_THREE), settings={"top_k": 3}),
        _classes("own prompt", bert(**_THREE), settings={"prompt": "review: "}),
        _classes("a sentence-transformers classifier", classes_of_sentence, settings={"top_k": 2}),
    ]


CASES = [*_architectures(), *_folders(), *_limits(), *_weights(), *_answers()]


def built(case: Case, folder: Path) -> Path:
    """Build a case's model in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case.build(folder)
    return folder
