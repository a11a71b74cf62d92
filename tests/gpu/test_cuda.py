"""What a CUDA device must show; skipped where there is none. Results of runs are in docs/gpu.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.errors import UnavailableError
from optinfer.families import FAMILIES
from optinfer.inference.invariance import invariance
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import build
from optinfer.optimization.certificate import mismatch
from optinfer.optimization.gate import measure
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import VARIANTS
from optinfer.system.machine import lacks_nvidia_gpu
from tests.conftest import located

ROWS = 512
# Lowest cosine to fp32 on the CPU that a row may have; half of the weights missing shows.
WORST = {"torch-sparse-cuda": 0.2}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(lacks_nvidia_gpu()), reason="no NVIDIA GPU on this machine"),
]


def settings(name: str, rows: pa.Table) -> ReplicaSettings:
    variant, model = VARIANTS[name], located()
    family = FAMILIES.get("text-embedding").load(model, {})
    context = BuildContext(family, family.preprocess(rows.slice(0, 32)))
    return ReplicaSettings(
        family="text-embedding",
        model=model,
        backend=variant.backend,
        artifact=build.build(variant, model, "gpu", lambda: context),
        device=variant.device,
        threads=4,
        max_batch_size=1024 if variant.device == "cuda" else 64,
    )


@pytest.fixture(scope="module")
def rows(sample_table: Path) -> pa.Table:
    return pa.table({"text": pq.read_table(sample_table).column("text").slice(0, ROWS)})


@pytest.mark.parametrize("name", [v.name for v in VARIANTS.values() if v.device == "cuda"])
def test_a_variant_on_the_gpu_answers_like_fp32_on_the_cpu_and_really_runs_there(name: str, rows: pa.Table) -> None:
    if reason := VARIANTS[name].unavailable():
        pytest.skip(reason)
    chosen = settings(name, rows)
    try:
        gpu = Replica(chosen)
    except UnavailableError as error:
        pytest.skip(str(error))
    cpu = Replica(settings("torch-fp32", rows))
    gpu.score(rows)
    scored, expected = gpu.score(rows), cpu.score(rows)
    fidelity = measure("cosine", expected.outputs, scored.outputs)
    executed = gpu.session.executed()
    print("executed", executed)
    print("cosine", fidelity)
    print("batch invariance", invariance(gpu, rows, scored))
    for which, result in (("gpu", scored), ("cpu", expected)):
        print(which, f"{ROWS / result.stats.infer_seconds:.0f} rows/s in the model", result.stats)
    assert fidelity.worst is not None
    assert fidelity.worst > WORST.get(name, 0.999)
    assert mismatch(chosen, executed) == ""
    np.testing.assert_array_equal(scored.kept, np.arange(ROWS))
