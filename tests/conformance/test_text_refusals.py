"""What a model's files ask for is done or refused by file and key, at plan time; what asks for nothing passes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from tests.conformance.text_cases import classifier
from tests.conformance.text_models import EMBEDDING, layer, pooling, sentence
from tests.conformance.text_refusals import REFUSALS, Refusal, setting
from tests.conftest import located


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a whole folder of sentence-transformers and one of a classifier, by family."""
    root = tmp_path_factory.mktemp("good")
    dense = layer("Dense", in_features=32, out_features=16)
    prompts = {"query": "query: "}
    made = {EMBEDDING: root / "vectors", "text-classification": root / "classes"}
    sentence("Bert", pooling("mean"), dense, layer("Normalize"), prompts=prompts)(made[EMBEDDING])
    classifier("Bert")(made["text-classification"])
    return made


def family_of(folder: Path, family: str, settings: dict[str, Any]) -> Any:
    return FAMILIES.get(family).load(located(folder, family), settings)


def test_both_folders_are_taken_as_they_are(good: dict[str, Path]) -> None:
    for family, folder in good.items():
        family_of(folder, family, {})


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name.replace(" ", "-"))
def test_what_is_not_done_is_refused_by_name(refusal: Refusal, good: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good[refusal.family], folder)
    refusal.change(folder)
    with pytest.raises(ConfigError, match=refusal.says):
        family_of(folder, refusal.family, refusal.settings)


@pytest.mark.parametrize("nothing", [None, False, "", [], {}])
@pytest.mark.parametrize(
    "file",
    ["config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json"],
)
def test_a_key_that_asks_for_nothing_passes(file: str, nothing: Any, good: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good[EMBEDDING], folder)
    setting(file, something_new=nothing)(folder)
    family_of(folder, EMBEDDING, {})


def test_a_refused_folder_ends_a_command_with_2(
    good: dict[str, Path], write_job: Any, run_cli: Any, tmp_path: Path, sample_table: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good[EMBEDDING], folder)
    setting("1_Pooling/config.json", temperature=2)(folder)
    job = write_job(sample_table, tmp_path / "out", model__path=str(folder), variant="torch-fp32")
    code, out, err = run_cli("plan", job)
    assert (code, out) == (2, "")
    assert "1_Pooling/config.json sets 'temperature' to 2, which optinfer does not apply" in err
