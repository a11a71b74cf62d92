"""PyTorch, compiled by inductor: fused kernels for any module, at the price of a compiler run on the first call.

On a CPU one graph serves every shape. On an NVIDIA GPU whole calls are replayed as CUDA graphs, one for each shape, so
inputs are padded to few shapes. The first call compiles for tens of seconds: whoever measures warms up before.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.backends import Arrays, Backend, Execution, Session
from optinfer.backends import torch as eager
from optinfer.errors import UnavailableError
from optinfer.models.artifact import Artifact

MASK = "attention_mask"


def unavailable(device: str) -> str | None:
    """Return why nothing can be compiled for `device`, or None; imports nothing."""
    if reason := eager.unavailable(device):
        return reason
    if device == "cuda" and find_spec("triton") is None:
        return "torch.compile needs Triton on a GPU; fix: pip install triton"
    return _without_compiler() or without_headers(Path(sysconfig.get_path("include")))


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return CompiledSession(artifact, execution, load_module)


class CompiledExecuted(eager.TorchExecuted):
    compiled: Mapping[str, int]
    cuda_graphs: Mapping[str, int]


class CompiledSession(eager.TorchSession):
    """Counts the graphs it compiled and how often they ran: a part that fell back to eager would show."""

    def __init__(self, artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> None:
        import torch

        super().__init__(artifact, execution, load_module)
        self._graphs = 0
        self._graph_calls = 0
        self._calls = 0
        self._longest = longest_sequence(self._module)
        # Not `module.compile`: that skips, without a word, a module of torch's own such as nn.Sequential.
        self._module = torch.compile(self._module, backend=self._inductor, dynamic=True)

    def __call__(self, inputs: Arrays) -> Arrays:
        import torch

        rows = len(next(iter(inputs.values())))
        self._calls += 1
        # Past its limit of graphs torch would go on uncompiled, and say so only in a log.
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            outputs = super().__call__(self._padded(inputs))
        if not self._graph_calls:
            raise UnavailableError("torch found nothing in this model that it can compile; use the backend torch")
        return {name: array[:rows] for name, array in outputs.items()}

    def executed(self) -> CompiledExecuted:
        import torch

        skips = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
        return {
            **super().executed(),
            "backend": "torch-compiled",
            "compiled": {"graphs": self._graphs, "graph_calls": self._graph_calls, "calls": self._calls},
            "cuda_graphs": {"asked": self._execution.device == "cuda", "graphs_without": skips},
        }

    def stage(self, inputs: Arrays) -> Any:
        """Leave them here: a call pads them first, and another thread's copies could disturb the capture of a graph."""
        return inputs

    def _padded(self, inputs: Arrays) -> Arrays:
        rows = len(next(iter(inputs.values())))
        if self._execution.device == "cuda":
            return padded(inputs, bucket(rows), self._longest)
        # An axis of one is compiled as a constant: a graph of its own, for the odd row left over.
        return padded(inputs, 2, None) if rows == 1 else inputs

    def _inductor(self, graph: Any, example_inputs: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        patches = {"triton.cudagraphs": True} if self._execution.device == "cuda" else {}
        compiled = compile_fx(graph, example_inputs, config_patches=patches)
        self._graphs += 1

        def counted(*given: Any) -> Any:
            self._graph_calls += 1
            return compiled(*given)

        return counted


def bucket(size: int) -> int:
    """Return the size to pad to: four steps from one power of two to the next, so little is padding.

    Steps are multiples of 8, which tensor cores want: at most 7 more, or a quarter.
    """
    step = max(8, 2 ** ((size - 1).bit_length() - 3))
    return -(-size // step) * step


def padded(inputs: Arrays, rows: int, longest: int | None) -> Arrays:
    """Return the inputs with `rows` rows, the last repeated; axis 1 goes to its bucket where a mask can hide it.

    The caller drops the added rows. Added columns stay: a model whose answer has a value for each token already gets
    columns of padding from every micro-batch, and whoever reads it goes by the mask.

    Args:
        inputs: arrays with rows first, at least one row.
        rows: at least as many as there are.
        longest: no sequence is padded beyond it; None leaves axis 1 alone.
    """
    found = {name: np.concatenate([a, np.repeat(a[-1:], rows - len(a), axis=0)]) for name, a in inputs.items()}
    if longest is None or MASK not in inputs:
        return found
    width = inputs[MASK].shape[1]
    more = max(0, min(bucket(width), longest) - width)
    return {
        name: np.pad(a, ((0, 0), (0, more))) if a.ndim == 2 and a.shape[1] == width else a for name, a in found.items()
    }


def longest_sequence(module: Any) -> int:
    """Return how many positions the model has, by its own configuration; without one there is no limit."""
    configs = (getattr(part, "config", None) for part in module.modules())
    limits = [n for c in configs if isinstance(n := getattr(c, "max_position_embeddings", None), int)]
    return min(limits, default=sys.maxsize)


def _without_compiler() -> str | None:
    # The same choice as inductor's: what CXX names, or the platform's usual one.
    named = os.environ.get("CXX")
    compiler = named or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler):
        return None
    if named:
        return f"CXX names the compiler {named!r}, which is not on the PATH; fix: point CXX to a C++ compiler"
    if other := next(filter(shutil.which, ("clang++", "g++", "c++")), None):
        return f"torch.compile looks for {compiler}, this machine has {other}; fix: export CXX={other}"
    return f"torch.compile needs a C++ compiler and finds no {compiler}; fix: apt-get install g++ (or set CXX)"


def without_headers(folder: Path) -> str | None:
    """Return that Python's headers are not in the folder where this Python's belong, with the fix; None if they are."""
    if (header := folder / "Python.h").is_file():
        return None
    return f"torch.compile needs Python's headers and finds no {header}; fix: apt-get install python3-dev"


backend = Backend(
    formats=("torch",),
    requires=("torch", "transformers"),
    max_batch_tokens={"cpu": 1024, "cuda": 65536},
    unavailable=unavailable,
    compiles=True,
    load=load,
)
