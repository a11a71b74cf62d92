"""CTranslate2 on CPU: a text encoder in its runtime, what follows the encoder in torch, as the family computes it.

The family's module is loaded as it is, and its encoder replaced by one that asks CTranslate2. So pooling, normalization
and a classifier's head are the very code that the baseline runs; they cost little beside the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.errors import ConfigError, UnavailableError
from optinfer.models.artifact import Artifact

# transformers' encoders for which CTranslate2 has a loader, and which tests hold against transformers.
ENCODERS = ("BertModel", "DistilBertModel", "RobertaModel", "XLMRobertaModel")
_SHORT = {"int8_float32": "int8", "int8": "int8", "float32": "fp32"}


class CTranslate2Executed(Executed):
    compute_type: str
    threads: int


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return CTranslate2Session(artifact, execution, load_module)


class CTranslate2Session(Session):
    def __init__(self, artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> None:
        import ctranslate2
        import torch

        torch.set_num_threads(execution.threads)
        self._execution = execution
        wanted = artifact.load_options["compute_type"]
        self._encoder = ctranslate2.Encoder(
            str(Path(artifact.path, "encoder")),
            device="cpu",
            compute_type=wanted,
            inter_threads=1,
            intra_threads=execution.threads,
        )
        # Where the CPU has no such kernels it computes in another type, and says so here only.
        if self._encoder.compute_type not in (wanted, f"{wanted}_float32"):
            raise UnavailableError(
                f"asked for {wanted}, CTranslate2 computes in {self._encoder.compute_type} on this CPU; choose another "
                "variant"
            )
        module = load_module()
        place, found = encoder_in(module)
        self._products = sum(isinstance(part, torch.nn.Linear) for part in found.modules())
        self._module = _with(module, place, _asking(self._encoder, found)).eval()
        self._products_after = sum(isinstance(part, torch.nn.Linear) for part in self._module.modules())

    def __call__(self, inputs: Arrays) -> Arrays:
        import torch

        with torch.inference_mode():
            results = self._module(*(torch.from_numpy(array) for array in inputs.values()))
            tensors = results if isinstance(results, tuple | list) else (results,)
            return {name: tensor.numpy() for name, tensor in zip(self._execution.outputs, tensors, strict=True)}

    def executed(self) -> CTranslate2Executed:
        import ctranslate2

        computed = self._encoder.compute_type
        precisions = {_SHORT.get(computed, computed): self._products - self._products_after}
        if self._products_after:
            precisions["fp32"] = precisions.get("fp32", 0) + self._products_after
        return {
            "backend": "ctranslate2",
            "version": ctranslate2.__version__,
            "device": self._encoder.device,
            "precisions": precisions,
            "compute_type": computed,
            "threads": self._execution.threads,
        }


def encoder_in(module: Any) -> tuple[str, Any]:
    """Return the name of a module's encoder inside it, and the encoder.

    Raises:
        ConfigError: it has none, or one that CTranslate2 is not known to compute as transformers does.
    """
    import transformers

    models = [(name, part) for name, part in module.named_modules() if isinstance(part, transformers.PreTrainedModel)]
    found = [(name, part) for name, part in models if type(part).__name__ in ENCODERS]
    if len(found) != 1:
        named = ", ".join(type(part).__name__ for _, part in models) or type(module).__name__
        raise ConfigError(f"CTranslate2 takes {', '.join(ENCODERS)}, this model is {named}; choose another variant")
    return found[0]


def _asking(encoder: Any, replaced: Any) -> Any:
    """Return a torch module that answers like the transformers model that it replaces, by asking CTranslate2."""
    import ctranslate2
    import numpy as np
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def view(array: Any) -> Any:
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(array, dtype=np.int32))

    class Asking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = replaced.config
            self.pooler = getattr(replaced, "pooler", None)
            self.uncounted = getattr(replaced.embeddings, "padding_idx", None)

        def forward(self, input_ids: Any, attention_mask: Any, **given: Any) -> Any:
            if self.uncounted is not None and ((input_ids == self.uncounted) & (attention_mask > 0)).any():
                raise ValueError(
                    "the text holds the padding token itself, which has no position in this model, and one in "
                    "CTranslate2; score it with another variant"
                )
            # Rows are padded on the right, and token types are zero where a family gives them.
            lengths = attention_mask.sum(dim=1).clamp(min=1)
            answer = encoder.forward_batch(view(input_ids.numpy()), lengths=view(lengths.numpy()))
            hidden = torch.from_numpy(np.array(answer.last_hidden_state))
            pooled = None if self.pooler is None else self.pooler(hidden)
            return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    return Asking()


def _with(module: Any, place: str, part: Any) -> Any:
    """Put a part into the place of a module's own; an empty place is the module itself."""
    if not place:
        return part
    owner, _, name = place.rpartition(".")
    setattr(module.get_submodule(owner), name, part)
    return module


backend = Backend(
    formats=("ctranslate2",),
    requires=("ctranslate2", "torch", "transformers"),
    extra="ctranslate2",
    max_batch_tokens={"cpu": 768},
    load=load,
)
