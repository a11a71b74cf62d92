"""What a CUDA device must show; skipped where there is none. Results of runs are in docs/gpu.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import build, model_source
from optinfer.optimization.certificate import invariance
from optinfer.optimization.gate import measure
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import BASELINE, VARIANTS
from tests.conftest import MODEL

ROWS = 512

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(VARIANTS["torch-fp16-cuda"].unavailable()), reason="no NVIDIA GPU on this machine"),
]


def replica(name: str, model: Path) -> Replica:
    variant = VARIANTS[name]
    source = model_source.baseline_artifact(model, model_source.digest(model))
    artifact = build.build(variant, source, "no rows", lambda: BuildContext(None, None))  # type: ignore[arg-type]
    return Replica(
        ReplicaSettings(
            family="text-embedding",
            model_path=str(model),
            backend=variant.backend,
            artifact=artifact,
            device=variant.device,
            threads=4,
            max_batch_size=1024 if variant.device == "cuda" else 64,
        )
    )


def test_fp16_on_the_gpu_answers_like_fp32_on_the_cpu_and_really_runs_there(sample_table: Path) -> None:
    model = model_source.locate(MODEL)
    rows = pa.table({"text": pq.read_table(sample_table).column("text").slice(0, ROWS)})
    gpu, cpu = replica("torch-fp16-cuda", model), replica(BASELINE, model)
    gpu.score(rows)
    scored, expected = gpu.score(rows), cpu.score(rows)
    fidelity = measure("cosine", expected.outputs, scored.outputs)
    executed = gpu.session.executed()
    print("executed", executed)
    print("cosine", fidelity)
    print("batch invariance", invariance(gpu, rows))
    for which, result in (("gpu", scored), ("cpu", expected)):
        print(which, f"{ROWS / result.stats.infer_seconds:.0f} rows/s in the model", result.stats)
    assert fidelity.worst > 0.999
    assert executed["device"] == "cuda"
    assert executed["parameter_dtypes"] == {"float16": 103}
    np.testing.assert_array_equal(scored.kept, np.arange(ROWS))
