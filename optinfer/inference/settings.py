"""What a replica is made of: a value that travels to wherever it loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from optinfer.inference.at_work import TimeLimits as TimeLimits
from optinfer.models.artifact import Artifact
from optinfer.records.canary import Canaries


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """Everything a replica needs, small and picklable: it travels, the model loads where it runs.

    Attributes:
        family: plugin name; `family_settings` are its own.
        model: the user's model: tokenizer, preprocessing and, for torch, weights.
        backend: plugin name.
        variant: the name that is recorded with what it scored.
        max_batch_tokens: 0 takes the backend's measured best for the device.
        max_batch_size: 0 takes what suits the family's rows; a model that fixes its batch has the last word.
        dedupe: identical rows of a table are scored once.
        canary: one row, a column per role, that the model is known to answer; None while nothing was proved.
        canaries: rows with the variant's own answers, on which it proves itself when it loads; None before it is
            certified.
        limits: how long its steps may take; None while nothing was measured, and the job does not say.
    """

    family: str
    family_settings: Mapping[str, object] = field(default_factory=dict)
    model: Artifact
    backend: str
    artifact: Artifact
    variant: str = ""
    device: str = "cpu"
    threads: int = 1
    max_batch_tokens: int = 0
    max_batch_size: int = 0
    dedupe: bool = True
    canary: pa.Table | None = None
    canaries: Canaries | None = None
    limits: TimeLimits | None = None
