"""Tells memory that was refused from every other error: the one place that knows the runtimes' words for it."""

from __future__ import annotations

# Lower case. In this order: torch and CUDA (also cuDNN's, by way of torch), torch on a CPU, the operating system, ONNX
# Runtime, C++ as MSVC and others say it (OpenVINO passes it on), cuBLAS.
_REFUSALS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "alloc_failed",
)

# Without sizes, so that all such rows are counted under one reason.
ROW_TOO_LARGE = (
    "out of memory with this row alone; shorten it (model.max_length), or give each replica more "
    "(fewer replicas, a smaller share of the GPU taken by others)"
)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a runtime means that it could not get memory: less at a time may still work."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _REFUSALS)
