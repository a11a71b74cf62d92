"""A tokenizer is transformers' own, written down once; limits end where a model's positions do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from optinfer.errors import ConfigError
from optinfer.families import FAMILIES, Family
from optinfer.families._limits import positions_of
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.system import home
from tests.conformance.text_cases import classifier, plain
from tests.conformance.text_models import ARCHITECTURES, CLASSIFICATION, EMBEDDING, LIMIT
from tests.conformance.texts import texts
from tests.conftest import located

TEXTS = pa.table({"text": texts()})


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ARCHITECTURES["Bert"].made(tmp_path_factory.mktemp("bert"))


def family_of(folder: Path, family: str = EMBEDDING, **settings: Any) -> Family:
    found: Family = FAMILIES.get(family).load(located(folder, family), settings)
    return found


def tokens_of(family: Family) -> list[list[int]]:
    features: Any = family.preprocess(TEXTS)
    return [features.ids[a:b].tolist() for a, b in zip(features.offsets[:-1], features.offsets[1:], strict=True)]


def test_a_tokenizer_that_was_written_down_needs_neither_transformers_nor_torch(bert: Path) -> None:
    first = tokens_of(family_of(bert))
    code = (
        "import json, sys\nfrom tests.families.test_text_tokens import family_of, tokens_of\nfrom pathlib import Path\n"
        f"tokens = tokens_of(family_of(Path({str(bert)!r})))\n"
        "print(json.dumps([tokens, [m for m in ('transformers', 'torch') if m in sys.modules]]))"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == [first, []]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_one_that_was_damaged_is_made_again(bert: Path, content: bytes) -> None:
    first = tokens_of(family_of(bert))
    for file in (home.home() / "tokenizers").iterdir():
        file.write_bytes(content)
    assert tokens_of(family_of(bert)) == first
    assert all(file.stat().st_size > len(content) for file in (home.home() / "tokenizers").iterdir())


def test_a_home_that_cannot_be_written_to_costs_time_only(bert: Path, own_home: Path) -> None:
    first = tokens_of(family_of(bert))
    shutil.rmtree(own_home)
    own_home.write_text("a file where the folder would be")
    assert tokens_of(family_of(bert)) == first


def test_another_setting_is_another_tokenizer(bert: Path, tmp_path: Path) -> None:
    before = tokens_of(family_of(bert))
    copy = tmp_path / "copy"
    shutil.copytree(bert, copy)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": False}))
    assert tokens_of(family_of(copy)) != before


def test_planning_loads_nothing_heavy(bert: Path) -> None:
    code = (
        "import sys\nfrom tests.families.test_text_tokens import family_of\nfrom pathlib import Path\n"
        f"family_of(Path({str(bert)!r}))\n"
        "print([m for m in ('transformers', 'torch', 'tokenizers', 'sentence_transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ("Bert", "Ernie")])
def test_positions_are_counted_as_the_loaded_model_has_them(name: str, tmp_path: Path) -> None:
    """Against the table itself: the first text that is too long for it makes the model fail."""
    import torch
    import transformers

    folder = ARCHITECTURES[name].made(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    longest = positions_of(config)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        for length, fits in ((longest or 70, True), ((longest or 70) + 1, longest is None)):
            ids = torch.full((1, length), 5)
            given = {"decoder_input_ids": ids[:, :1]} if "T5" in name else {}
            if fits:
                model(input_ids=ids, **given)
            else:
                with pytest.raises((IndexError, RuntimeError)):
                    model(input_ids=ids)


def test_features_say_how_far_they_may_be_padded(bert: Path, tmp_path: Path) -> None:
    assert family_of(bert).preprocess(TEXTS).longest == 64
    roberta = ARCHITECTURES["Roberta"].made(tmp_path / "roberta")
    features = family_of(roberta).preprocess(TEXTS)
    assert features.lengths is not None
    assert features.longest == LIMIT == features.lengths.max()
    assert family_of(ARCHITECTURES["T5"].made(tmp_path / "t5")).preprocess(TEXTS).longest is None


def test_a_model_with_fewer_positions_than_its_config_says_is_refused(tmp_path: Path) -> None:
    """As an architecture would be whose positions begin later than is known here."""
    folder = ARCHITECTURES["Roberta"].made(tmp_path / "model", tokens={"model_max_length": 64})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 1.0, "model_type": "roberta"}))
    from optinfer.families import _limits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_limits, "_AFTER_PADDING", ())
        family = family_of(folder)
        family.preprocess(TEXTS)
        with pytest.raises(ConfigError, match=f"has {LIMIT} positions.*set model.max_length"):
            family.load_module()


def test_no_room_for_a_text_is_refused(bert: Path) -> None:
    with pytest.raises(ConfigError, match="2 tokens leave no room for a text beside the tokenizer's 2 special ones"):
        family_of(bert, max_length=2).preprocess(TEXTS)


def test_a_text_without_tokens_is_rejected(tmp_path: Path) -> None:
    features = family_of(ARCHITECTURES["GPT2"].made(tmp_path / "gpt2")).preprocess(pa.table({"text": ["a", "", None]}))
    assert features.rejected == {1: "the text has no tokens", 2: "text is null"}


def test_a_tokenizer_that_knows_no_words_is_refused(bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bert, copy)
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ConfigError, match="knows no words"):
        family_of(copy).preprocess(TEXTS)


def test_a_head_whose_weights_are_not_there_is_refused_instead_of_made_up(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    classifier("Bert")(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "classifier" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ConfigError, match=r"lacks the weights classifier\.bias, classifier\.weight"):
        family_of(folder, CLASSIFICATION).load_module()


def test_a_layer_that_is_not_there_is_refused_and_a_pooler_is_not_missed(bert: Path, tmp_path: Path) -> None:
    for left_out, refused in (("pooler", False), ("encoder.layer.1.output", True)):
        copy = tmp_path / left_out
        shutil.copytree(bert, copy)
        weights = load_file(copy / "model.safetensors")
        kept = {name: value for name, value in weights.items() if left_out not in name}
        assert len(kept) < len(weights)
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        if refused:
            with pytest.raises(ConfigError, match=r"lacks the weights encoder\.layer\.1\.output.* and more"):
                family_of(copy).load_module()
        else:
            family_of(copy).load_module()


def test_rows_padded_on_either_side_answer_as_the_row_alone(tmp_path: Path) -> None:
    """A row's answer does not depend on who shares its micro-batch, whatever side the tokenizer names."""
    folder = tmp_path / "model"
    plain("GPT2", tokens={"padding_side": "left"})(folder)
    model = located(folder, EMBEDDING)
    replica = Replica(ReplicaSettings(family=EMBEDDING, model=model, backend="torch", artifact=model))
    features = replica.family.preprocess(TEXTS)
    together = replica.session(features.collate(np.array([0, 1, 60]), pad_to=64))["sentence_embedding"]
    for place, row in enumerate((0, 1, 60)):
        alone = replica.session(features.collate(np.array([row])))["sentence_embedding"][0]
        np.testing.assert_allclose(together[place], alone, atol=1e-5)
