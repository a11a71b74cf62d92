"""PyTorch, eager: the baseline, and the casts that need no other runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.artifact import Artifact
from optinfer.backends import Arrays, Execution, Session
from optinfer.errors import UnavailableError

FORMATS = ("huggingface",)
REQUIRES = ("torch", "transformers")
DEVICES = ("cpu", "cuda")
# Eager PyTorch is fastest at 8-32 sorted rows on CPUs (about 100 tokens each); a GPU wants far more work per launch.
MAX_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}


def unavailable(device: str) -> str | None:
    """Return why torch cannot run on `device`, or None; imports nothing, so the last word is spoken on loading."""
    if device != "cuda" or list(Path("/dev").glob("nvidia[0-9]*")):
        return None
    return "no NVIDIA GPU on this machine; run where there is one, with a CUDA build of torch"


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return TorchSession(artifact, execution, load_module)


class TorchSession(Session):
    def __init__(self, artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> None:
        import torch

        if execution.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(
                f"torch {torch.__version__} sees no CUDA GPU; install a CUDA build of torch and a driver that fits it"
            )
        if execution.device == "cpu":
            torch.set_num_threads(execution.threads)
        module = load_module().to(execution.device)
        if cast := artifact.load_options.get("cast"):
            module = module.to(getattr(torch, cast))
        self._module = module.eval()
        self._execution = execution

    def __call__(self, inputs: Arrays) -> Arrays:
        import torch

        with torch.inference_mode():
            given = [torch.from_numpy(array).to(self._execution.device) for array in inputs.values()]
            results = self._module(*given)
            tensors = results if isinstance(results, tuple) else (results,)
            return {
                name: tensor.float().cpu().numpy()
                for name, tensor in zip(self._execution.outputs, tensors, strict=True)
            }

    def executed(self) -> dict[str, Any]:
        import torch

        dtypes = Counter(str(p.dtype).removeprefix("torch.") for p in self._module.parameters())
        devices = sorted({p.device.type for p in self._module.parameters()})
        return {
            "backend": "torch",
            "version": torch.__version__,
            "device": ",".join(devices),
            "parameter_dtypes": dict(dtypes),
            "threads": torch.get_num_threads(),
        }
