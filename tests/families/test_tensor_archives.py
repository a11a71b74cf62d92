"""What torch.export.save writes, in all its forms, against the archive itself as torch loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from optinfer.config import GateConfig
from optinfer.families import FAMILIES
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.baseline import answers_here, require_sound
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.techniques.onnx_export import run, technique
from tests.conftest import located

ROWS = 20
LINEAR = torch.nn.Linear(4, 3)
DRAW = np.random.default_rng(0)
NUMBERS = DRAW.normal(size=(ROWS, 4)).astype(np.float32)
OTHERS = DRAW.normal(size=(ROWS, 3)).astype(np.float32)
TIMES = 1.7e9 + np.arange(ROWS) / 4


class Later(torch.nn.Module):
    """A double beside fp32 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = LINEAR

    def forward(self, numbers: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return time + self.linear(numbers)[:, 0].double()


class Named(Later):
    """A dictionary in a tuple, of a tensor by keyword."""

    def forward(self, numbers: torch.Tensor, *, others: torch.Tensor) -> Any:  # type: ignore[override]
        moved = self.linear(numbers) - others
        return moved, {"sum": moved.sum(dim=1), "best": moved.argmax(dim=1)}


def lists(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(list(values), pa.list_(pa.float32(), values.shape[1]))


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Path:
        rows = torch.export.Dim("rows", max=4096)
        given = [{0: rows}] * (len(args) + len(kwargs or {}))
        program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=given)
        torch.export.save(program, tmp_path / "model.pt2")
        return tmp_path / "model.pt2"

    return write


def settings_of(path: Path, **outputs: int) -> ReplicaSettings:
    model = located(path, "tensor")
    return ReplicaSettings(
        family="tensor", family_settings={"outputs": outputs}, model=model, backend="torch", artifact=model
    )


def finished(settings: ReplicaSettings, table: pa.Table) -> pa.Table:
    """Return the columns that rows gain, of a model that is proved."""
    from optinfer.inference.replica import Replica

    require_sound(answers_here(settings, table, print), GateConfig())
    return Replica(settings).score(table).added


def test_a_double_beside_fp32_weights_keeps_its_digits(save: Save) -> None:
    """Rounded to fp32 a time is off by up to 64 seconds, and that is nothing beside 1.7e9."""
    path = save(Later(), (torch.from_numpy(NUMBERS), torch.from_numpy(TIMES)))
    added = finished(settings_of(path, later=0), pa.table({"numbers": lists(NUMBERS), "time": TIMES}))
    with torch.inference_mode():
        wanted = torch.export.load(path).module()(torch.from_numpy(NUMBERS), torch.from_numpy(TIMES)).numpy()
    np.testing.assert_allclose(added["later"].to_numpy(), wanted, rtol=0, atol=1e-5)


def test_bfloat16_is_fed_by_its_library_too(save: Save) -> None:
    path = save(torch.nn.Linear(4, 1).bfloat16(), (torch.from_numpy(NUMBERS).bfloat16(),))
    added = finished(settings_of(path, sum=1), pa.table({"input": lists(NUMBERS)}))
    with torch.inference_mode():
        wanted = torch.export.load(path).module()(torch.from_numpy(NUMBERS).bfloat16()).float().numpy()
    np.testing.assert_allclose(added["sum"].combine_chunks().flatten().to_numpy(), wanted.ravel(), atol=1e-2)


def test_keywords_dictionaries_and_nests_are_tensors_in_order(save: Save, tmp_path: Path) -> None:
    path = save(Named(), (torch.from_numpy(NUMBERS),), {"others": torch.from_numpy(OTHERS)})
    settings = settings_of(path, moved=3, sum=0, best=0)
    table = pa.table({"others": lists(OTHERS), "numbers": lists(NUMBERS)})
    added = finished(settings, table)
    with torch.inference_mode():
        moved, more = torch.export.load(path).module()(torch.from_numpy(NUMBERS), others=torch.from_numpy(OTHERS))
    np.testing.assert_allclose(np.stack(added["moved"].to_numpy()), moved.numpy(), atol=1e-6)
    np.testing.assert_allclose(added["sum"].to_numpy(), more["sum"].numpy(), atol=1e-6)
    assert added["best"].to_pylist() == more["best"].tolist()

    family = FAMILIES.get("tensor").load(settings.model, settings.family_settings)
    run(settings.artifact, BuildContext(family, family.preprocess(table)), tmp_path, technique.defaults)
    assert (tmp_path / "model.onnx").is_file()
