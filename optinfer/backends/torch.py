"""PyTorch, eager: the baseline, and the techniques that need no other runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.errors import UnavailableError
from optinfer.models.artifact import Artifact
from optinfer.plugins import Kind
from optinfer.system.machine import lacks_nvidia_gpu

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


def unavailable(device: str) -> str | None:
    """Return why torch cannot run on `device`, or None; imports nothing, so the last word is spoken on loading."""
    return lacks_nvidia_gpu() if device == "cuda" else None


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return TorchSession(artifact, execution, load_module)


@runtime_checkable
class _Converting(Protocol):
    """What of a technique concerns whoever loads a module (see optimization/techniques)."""

    @property
    def convert(self) -> Callable[[Any, dict[str, Any], str], Any] | None: ...


_CONVERTING: Kind[_Converting] = Kind("technique", "techniques", "optinfer.optimization.techniques", _Converting)  # type: ignore[type-abstract]


def converted(artifact: Artifact, load_module: Callable[[], Any], device: str) -> Any:
    """Load the family's module and do to it, in order, what the artifact's techniques recorded; eval mode."""
    module = load_module().to(device)
    for conversion in artifact.conversions:
        convert = _CONVERTING.get(conversion["technique"]).convert
        assert convert is not None, "it recorded a conversion"
        module = convert(module, conversion, device)
    return module.eval()


@dataclass(frozen=True)
class Staged:
    """Inputs on their way to the GPU; the event `ready` happens when they have arrived."""

    tensors: list[Any]
    ready: Any


class TorchExecuted(Executed):
    threads: int


class TorchSession(Session):
    def __init__(self, artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> None:
        import torch

        if execution.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(
                f"torch {torch.__version__} sees no CUDA GPU; install a CUDA build of torch and a driver that fits it"
            )
        if execution.device == "cpu":
            torch.set_num_threads(execution.threads)
        self._module = converted(artifact, load_module, execution.device)
        held = next((p.dtype for p in self._module.parameters() if p.is_floating_point()), None)
        self._half = held if held in (torch.float16, torch.bfloat16) else None
        self._execution = execution
        self._copies = torch.cuda.Stream() if execution.device == "cuda" else None

    def __call__(self, inputs: Any) -> Arrays:
        import torch

        with torch.inference_mode():
            if isinstance(inputs, Staged):
                given = _arrived(inputs)
            else:
                given = [self._given(torch.from_numpy(array)) for array in inputs.values()]
            results = self._module(*given)
            tensors = results if isinstance(results, tuple | list) else (results,)
            return {name: _array(tensor) for name, tensor in zip(self._execution.outputs, tensors, strict=True)}

    def stage(self, inputs: Arrays) -> Any:
        """Copy on a stream of its own: the GPU goes on with its work, and pinned memory lets this thread go on, too."""
        import torch

        if self._copies is None:
            return inputs
        with torch.cuda.stream(self._copies):
            pinned = [torch.from_numpy(array).pin_memory() for array in inputs.values()]
            return Staged([self._given(tensor, non_blocking=True) for tensor in pinned], self._copies.record_event())

    def free_memory(self) -> None:
        """Return cached blocks to the GPU: of the sizes that failed, they would not serve smaller micro-batches."""
        import torch

        if self._execution.device == "cuda":
            torch.cuda.empty_cache()

    def _given(self, tensor: Any, non_blocking: bool = False) -> Any:
        """Bring an input to the device; numbers go in the half precision that the module was cast to.

        Else as the family made them: a double (a time, say) beside fp32 weights means all of its digits.
        """
        dtype = self._half if tensor.is_floating_point() else None
        return tensor.to(self._execution.device, dtype, non_blocking=non_blocking)

    def executed(self) -> TorchExecuted:
        import torch

        held = [*self._module.parameters(), *self._module.buffers()]
        return {
            "backend": "torch",
            "version": torch.__version__,
            "device": ",".join(sorted({p.device.type for p in held})) or self._execution.device,
            "precisions": dict(Counter(_precisions(self._module.parameters()))),
            "threads": torch.get_num_threads(),
        }


def _arrived(staged: Staged) -> list[Any]:
    """Let this thread's stream wait for the copies, and their memory for the work that this stream does with them."""
    import torch

    stream = torch.cuda.current_stream()
    stream.wait_event(staged.ready)
    for tensor in staged.tensors:
        tensor.record_stream(stream)
    return staged.tensors


def _array(tensor: Any) -> Any:
    half = tensor.is_floating_point() and tensor.element_size() < 4
    return (tensor.float() if half else tensor).cpu().numpy()


def _precisions(parameters: Iterable[Any]) -> Iterable[str]:
    """Name what each parameter is stored in: a quantized one is a tensor subclass with its integers inside."""
    for parameter in parameters:
        stored = getattr(parameter, "qdata", None)
        dtype = str(parameter.dtype if stored is None else stored.dtype).removeprefix("torch.")
        yield _SHORT.get(dtype, dtype)


backend = Backend(
    formats=("torch",),
    requires=("torch", "transformers"),
    # Eager PyTorch is fastest at 8-32 sorted rows on CPUs (about 100 tokens each); a GPU wants far more work per
    # launch.
    max_batch_tokens={"cpu": 1024, "cuda": 65536},
    unavailable=unavailable,
    load=load,
)
