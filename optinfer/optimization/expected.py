"""Which variants a kind of machine is known to like, before anything was measured on it.

The numbers are rows per second as a multiple of the baseline's, one replica with one thread, of all-MiniLM-L6-v2 on the
sample table: measured on the machines named below. They set the order of the race of `variant: auto`, and leave out who
cannot win by far (race.py says by how far); who wins is measured. What an earlier race measured on this very machine
takes their place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optinfer.system import home
from optinfer.system.machine import BF16, VNNI, cpu_features

# AMD EPYC with AVX2 alone, docs/variants.md.
_AVX2 = {
    "ctranslate2-int8": 1.8,
    "onnx-int8-dynamic": 1.78,
    "onnx-int8-qdq": 1.44,
    "onnx-int8-static": 1.28,
    "torch-compiled": 1.22,
    "onnx-optimized": 1.12,
    "onnx-fp32": 1.07,
    "torchao-int8-weights": 1.02,
    "openvino-int8-weights": 0.96,
    "openvino-fp32": 0.88,
    "openvino-int8-static": 0.67,
}
# AMD EPYC with AVX512-VNNI and BF16.
_VNNI = {
    "openvino-int8-static": 3.7,
    "torchao-int8-dynamic": 3.5,
    "onnx-int8-dynamic": 3.3,
    "openvino-bf16": 3.0,
    "torch-bf16": 2.9,
    "onnx-int8-qdq": 2.6,
    "onnx-int8-static": 2.2,
    "openvino-fp32": 2.1,
    "openvino-int8-weights": 2.1,
    "onnx-fp32": 1.8,
    "onnx-optimized": 1.8,
    "torch-compiled": 1.15,
    "torchao-int8-weights": 1.0,
}


def expected(family: str, device: str) -> Mapping[str, float]:
    """Return variant -> how many times as fast as the baseline it is on machines like this, as far as is known."""
    earlier = home.read_json(_path(family, device), _ratios)
    return {**_shipped(device), **(earlier or {})}


def remember(family: str, device: str, ratios: Mapping[str, float]) -> None:
    """Keep what a race measured here, for the order of the next one, of whichever model."""
    known = {**(home.read_json(_path(family, device), _ratios) or {}), **ratios}
    record = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "times_the_baseline": known}
    home.put(_path(family, device), json.dumps(record, indent=1).encode())


def _shipped(device: str) -> Mapping[str, float]:
    features = set(cpu_features())
    if device != "cpu" or "avx2" not in features:
        return {}  # nothing was measured there: everything is probed
    return _VNNI if features & set(VNNI) and features & set(BF16) else _AVX2 if not features & set(VNNI) else {}


def _path(family: str, device: str) -> Path:
    ground = hashlib.sha256(json.dumps([family, device, *cpu_features()]).encode()).hexdigest()[:16]
    return home.home() / "races" / f"known-{ground}.json"


def _ratios(raw: Any) -> Mapping[str, float]:
    return {str(name): float(ratio) for name, ratio in raw["times_the_baseline"].items()}
