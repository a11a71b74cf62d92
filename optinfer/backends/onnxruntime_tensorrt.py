"""ONNX Runtime on TensorRT: engines built for this GPU, kept between runs; CUDA takes the nodes TensorRT cannot.

Building an engine takes minutes and fits one GPU model, driver and pair of versions: engines lie in the home folder
under a key of all that. The technique `tensorrt_profile` says for which shapes one engine serves.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.backends import Arrays, Backend, Execution, Session
from optinfer.backends.onnxruntime import OnnxExecuted, OnnxRuntimeSession
from optinfer.errors import OptinferError
from optinfer.models.artifact import Artifact
from optinfer.system import home
from optinfer.system.machine import gpu, lacks_nvidia_gpu

# onnxruntime-gpu 1.31 is linked against TensorRT 10; the parser comes with it.
_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_SYSTEM_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib", "/usr/local/tensorrt/lib")

Profile = dict[str, dict[str, list[int]]]


def unavailable(device: str) -> str | None:
    """Return why TensorRT cannot run here, or None; imports nothing, so the last word is spoken on loading."""
    if device != "cuda":
        return f"TensorRT runs on cuda, not on {device}"
    return lacking(lacks_nvidia_gpu(), library(_LIBRARIES[0]))


def lacking(gpu_reason: str | None, found: Path | None) -> str | None:
    """Return what TensorRT lacks: a GPU, by the reason why there is none, or its library, where it was not found."""
    if gpu_reason:
        return gpu_reason
    if found is None:
        return f"TensorRT's {_LIBRARIES[0]} is not found; fix: pip install 'tensorrt-cu13<11', or set LD_LIBRARY_PATH"
    return None


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return TensorRTSession(artifact, execution)


class TensorRTExecuted(OnnxExecuted):
    tensorrt: str
    engines: Mapping[str, int]


class TensorRTSession(OnnxRuntimeSession):
    def __init__(self, artifact: Artifact, execution: Execution) -> None:
        import onnxruntime

        # Installed by pip, neither CUDA's nor TensorRT's libraries lie where the loader looks.
        onnxruntime.preload_dlls()
        for name in _LIBRARIES:
            if path := library(name):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._bounds: Profile = artifact.load_options.get("profile", {})
        self._fp16 = bool(artifact.load_options.get("fp16"))
        self._engines = home.home() / "engines" / engine_key(artifact.key, onnxruntime.__version__, tensorrt(), gpu())
        self._engines.mkdir(parents=True, exist_ok=True)
        options = provider_options(self._bounds, self._fp16, self._engines)
        # TensorRT first, CUDA for what it leaves over.
        super().__init__(
            artifact, execution, [("TensorrtExecutionProvider", options), ("CUDAExecutionProvider", {"device_id": "0"})]
        )

    def __call__(self, inputs: Arrays) -> Arrays:
        parts = [super(TensorRTSession, self).__call__(part) for part in fitting(inputs, self._bounds)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def executed(self) -> TensorRTExecuted:
        found = super().executed()
        # To ONNX Runtime an engine is one node, of no type it knows.
        engines = found["nodes_by_provider"].get("TensorrtExecutionProvider", 0)
        mine = {"fp16" if self._fp16 else "fp32": engines} if engines else {}
        return {
            **found,
            "backend": "onnxruntime-tensorrt",
            "precisions": dict(Counter(found["precisions"]) + Counter(mine)),
            "tensorrt": tensorrt(),
            # An engine exists only for a part of the graph that TensorRT took.
            "engines": {f.name: f.stat().st_size for f in sorted(self._engines.glob("*.engine"))},
        }


def provider_options(profile: Profile, fp16: bool, engines: Path) -> dict[str, str]:
    """Return TensorRT's options in ONNX Runtime's words."""
    shapes = {f"trt_profile_{bound}_shapes": _shapes(inputs) for bound, inputs in profile.items()}
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
        "trt_fp16_enable": str(fp16),
        **shapes,
    }


def _shapes(inputs: dict[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in inputs.items())


def fitting(inputs: Arrays, profile: Profile) -> Iterator[Arrays]:
    """Yield the micro-batch in parts that the engine's profile has room for.

    Raises:
        OptinferError: a row alone is too large for it.
    """
    rows = len(next(iter(inputs.values())))
    bounds = profile.get("max", {})
    for name, bound in bounds.items():
        if any(n > most for n, most in zip(inputs[name].shape[1:], bound[1:], strict=True)):
            raise OptinferError(
                f"input {name} has shape {inputs[name].shape}, the TensorRT engine was built for at most {bound}; "
                "fix: set the option `longest` of technique tensorrt_profile to the longest row, or model.max_length"
            )
    most_rows = min((bound[0] for bound in bounds.values()), default=rows)
    for start in range(0, rows, most_rows):
        yield {name: array[start : start + most_rows] for name, array in inputs.items()}


def engine_key(*shaped_by: str) -> str:
    return hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16]


def library(name: str) -> Path | None:
    """Return where a TensorRT library lies: NVIDIA's Python package, `LD_LIBRARY_PATH` or the system's folders."""
    package = find_spec("tensorrt_libs")
    folders = [*(package.submodule_search_locations or () if package else ())]
    folders += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    return next((p for f in (*folders, *_SYSTEM_FOLDERS) if (p := Path(f, name)).is_file()), None)


def tensorrt() -> str:
    """Return TensorRT's version; a system's library tells it by the name of the file that it is a link to."""
    for name in ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    found = library(_LIBRARIES[0])
    return found.resolve().name if found else "unknown"


backend = Backend(
    formats=("onnx",),
    requires=("onnxruntime",),
    max_batch_tokens={"cuda": 65536},
    unavailable=unavailable,
    compiles=True,
    load=load,
)
