"""What this machine has, read without importing anything heavy: instruction sets, GPUs, package versions."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "bf16")
BF16 = ("avx512_bf16", "amx_bf16", "bf16")
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@cache
def cpu_features() -> list[str]:
    """Return the instruction sets that change what a runtime computes, as the kernel names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = next((ln for ln in text.splitlines() if ln.lower().startswith(("flags", "features"))), "")
    return sorted(set(line.split()) & set(_CPU_FLAGS))


def lacks_nvidia_gpu() -> str | None:
    """Return why nothing can run on CUDA here, with the fix; None where the kernel shows a GPU."""
    if list(Path("/dev").glob("nvidia[0-9]*")):
        return None
    return "no NVIDIA GPU on this machine; run where there is one, with its driver"


def installed(module: str) -> str:
    """Return the version of the package that brings a module."""
    for name in (module, f"{module}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
