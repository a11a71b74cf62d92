"""What this machine has, read without importing anything heavy: instruction sets, GPUs, package versions."""

from __future__ import annotations

import os
import shutil
import subprocess
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


def nvidia_gpus() -> int:
    """Return how many NVIDIA GPUs the kernel shows."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def lacks_nvidia_gpu() -> str | None:
    """Return why nothing can run on CUDA here, with the fix; None where the kernel shows a GPU."""
    if nvidia_gpus():
        return None
    return "no NVIDIA GPU on this machine; run where there is one, with its driver"


@cache
def gpu() -> str:
    """Return the GPU's name and driver, "unknown" where nvidia-smi is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    return _ask(tool, "name,driver_version") or "unknown"


def gpu_memory_mb() -> tuple[float, float]:
    """Return what is taken of the GPU's memory now and what it has; zeros where nvidia-smi does not say."""
    tool = shutil.which("nvidia-smi")
    try:
        used, total = _ask(tool, "memory.used,memory.total").split(",") if tool else ("0", "0")
        return float(used) * 1.048576, float(total) * 1.048576
    except ValueError:
        return 0.0, 0.0


def _ask(tool: str, fields: str) -> str:
    """Ask nvidia-smi about the GPU this process sees first: Ray sets the variable for an actor. Memory is in MiB."""
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    query = [tool, "-i", which, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    return subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


def installed(module: str) -> str:
    """Return the version of the package that brings a module."""
    for name in (module, f"{module}-gpu", f"{module}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def peak_rss_mb() -> float:
    """Return the most memory this process has held, in megabytes."""
    try:
        # What getrusage says on Linux begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    except (OSError, IndexError):
        import resource  # Windows has none

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes
