"""Compiled torch: what is padded, what it needs, and that compiled code is what runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfer.backends import Execution, torch_compiled
from optinfer.backends.torch_compiled import bucket, longest_sequence, padded
from optinfer.models.artifact import Artifact

ARTIFACT = Artifact(path="/nowhere", format="torch", precision="fp32", key="model")


def texts(rows: int, width: int) -> dict[str, np.ndarray[Any, Any]]:
    ids = np.arange(1, rows * width + 1).reshape(rows, width)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@given(st.integers(1, 100_000))
def test_a_bucket_holds_its_size_with_at_most_a_quarter_or_seven_more(size: int) -> None:
    found = bucket(size)
    assert size <= found <= max(size + 7, size * 1.25)
    assert found % 8 == 0
    assert bucket(found) == found


def test_buckets_are_few() -> None:
    assert len({bucket(n) for n in range(1, 513)}) == 20


def test_rows_are_padded_by_the_last_one_and_columns_by_a_mask_of_zero() -> None:
    given = texts(3, 10)
    found = padded(given, 4, 512)
    assert found["input_ids"].shape == found["attention_mask"].shape == (4, 16)
    np.testing.assert_array_equal(found["input_ids"][:3, :10], given["input_ids"])
    np.testing.assert_array_equal(found["input_ids"][3], found["input_ids"][2])
    assert not found["attention_mask"][:, 10:].any()
    assert found["input_ids"].dtype == given["input_ids"].dtype


def test_columns_stay_where_no_mask_could_hide_them() -> None:
    images = {"pixel_values": np.ones((3, 5, 7, 7), dtype=np.float32)}
    assert padded(images, 8, 512)["pixel_values"].shape == (8, 5, 7, 7)
    assert padded({"features": np.ones((3, 5))}, 8, 512)["features"].shape == (8, 5)
    beside_a_mask = {**texts(3, 10), "features": np.ones((3, 5))}
    assert padded(beside_a_mask, 3, 512)["features"].shape == (3, 5)


def test_no_sequence_grows_beyond_the_positions_of_the_model() -> None:
    assert padded(texts(1, 70), 1, 77)["input_ids"].shape == (1, 77)
    assert padded(texts(1, 77), 1, 77)["input_ids"].shape == (1, 77)


def test_the_positions_are_read_from_the_configuration() -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = torch.nn.Sequential(BertModel(BertConfig(vocab_size=9, max_position_embeddings=33, **sizes)))
    assert longest_sequence(model) == 33
    assert longest_sequence(torch.nn.Linear(1, 1)) == sys.maxsize


def test_a_missing_compiler_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "needs a C++ compiler" in (torch_compiled.unavailable("cpu") or "")
    monkeypatch.setenv("CXX", "my-compiler")
    assert "CXX names the compiler 'my-compiler'" in (torch_compiled.unavailable("cpu") or "")
    monkeypatch.delenv("CXX")
    (tmp_path / "c++").write_text("")
    (tmp_path / "c++").chmod(0o755)
    assert "fix: export CXX=c++" in (torch_compiled.unavailable("cpu") or "")


def test_missing_headers_are_named_with_the_fix(tmp_path: Path) -> None:
    assert "python3-dev" in (torch_compiled.without_headers(tmp_path) or "")
    (tmp_path / "Python.h").touch()
    assert torch_compiled.without_headers(tmp_path) is None


@pytest.mark.skipif(bool(torch_compiled.unavailable("cpu")), reason="no C++ compiler on this machine")
def test_one_graph_serves_every_shape_and_is_what_runs() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).eval()
    session = torch_compiled.load(ARTIFACT, Execution(device="cpu", threads=1, outputs=("scores",)), lambda: module)
    rows = np.random.default_rng(0).standard_normal((9, 4), dtype=np.float32)
    for count in (1, 2, 9):
        found = session({"features": rows[:count]})["scores"]
        expected = module.forward(torch.from_numpy(rows[:count])).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    executed = session.executed()
    assert executed["compiled"] == {"graphs": 1, "graph_calls": 3, "calls": 3}
    assert (executed["backend"], executed["device"]) == ("torch-compiled", "cpu")
