"""The baseline's answers to the sample, which every variant is compared with; and what they were held against.

The baseline itself is proved here: against the library that the model came from, where one is installed, and against
itself, a row alone and the same row in company. It runs in a process of its own: a sampled row that crashes or hangs is
found, named and left out like every row of the job, and the proof goes on with the others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.config import GateConfig
from optinfer.data import home_store
from optinfer.errors import GateError, NoVariantError, OptinferError, scrubbed
from optinfer.families import Arrays, Reference
from optinfer.inference.answers import Scored
from optinfer.inference.engine import Engine
from optinfer.inference.invariance import scale
from optinfer.inference.isolation import Died, IsolatedReplica, Patience
from optinfer.inference.preparing import described, prepare
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.system import home

_REFERENCE_SECONDS = 1800.0
# Rows that the library is asked for: the longest, which meet its limits, and others from all over the sample.
_REFERENCE_ROWS = 64
_LONGEST_ROWS = 16
# A model whose answers move further with a row's neighbours gives a row no answer of its own.
_MOST_OF_THE_SCALE = 0.05
_NAMED_ROWS = 3
_RECORD = "optinfer_record"
_KEPT = "optinfer_kept_rows"
_NOBODY = Reference(note="nobody was asked")


@dataclass(frozen=True)
class Answers:
    """The baseline's outputs for the sample rows `kept`, the ones it could score.

    Attributes:
        largest_difference: how far neighbours move a component of them.
        reference: the same rows' answers by the model's own library.
        rejected: sample row -> why it has no answer.
    """

    outputs: Arrays
    kept: np.ndarray[Any, Any]
    largest_difference: float
    reference: Reference = _NOBODY
    rejected: dict[int, str] = field(default_factory=dict)

    def packed(self) -> bytes:
        """Return all of it as one file."""
        record = {
            "largest_difference": self.largest_difference,
            "reference": self.reference.as_dict(),
            "rejected": {str(row): why for row, why in self.rejected.items()},
        }
        content = io.BytesIO()
        texts = {name: values.astype(str) for name, values in self.outputs.items() if values.dtype == object}
        arrays: Any = {**self.outputs, **texts, _KEPT: self.kept, _RECORD: np.array(json.dumps(record))}
        np.savez(content, **arrays)
        return content.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> Answers:
        """Return what `packed` gave; raises what numpy and json raise for anything else."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            outputs = {name: stored[name] for name in stored.files if name not in (_KEPT, _RECORD)}
            record = json.loads(str(stored[_RECORD]))
            rejected = {int(row): why for row, why in record["rejected"].items()}
            reference = Reference(**record["reference"])
            return cls(outputs, stored[_KEPT], record["largest_difference"], reference, rejected)


def answers_apart(settings: ReplicaSettings, rows: pa.Table, report: Callable[[str], None]) -> Answers:
    """Score rows, one column per role, with the baseline in a process of its own.

    Raises:
        NoVariantError: it cannot score any of them.
    """
    with IsolatedReplica(settings) as isolated:
        scored = isolated.score(rows)
        _require_answers(scored, report)
        try:
            differs = isolated.ask(_moved, rows, scored)
        except Died as died:
            raise OptinferError(
                f"the baseline's process {died} when rows that it had scored were scored again in other company; "
                "check memory, or choose a smaller batching.max_batch_size"
            ) from None
        return _answers(scored, differs, _reference_apart(isolated, rows, scored))


def answers_here(settings: ReplicaSettings, rows: pa.Table, report: Callable[[str], None]) -> Answers:
    """Do what `answers_apart` does in this process, which a row may end."""
    replica = Replica(settings)
    scored = replica.score(rows)
    _require_answers(scored, report)
    return _answers(scored, _moved(replica, rows, scored), _compared(replica, *_for_reference(replica, rows, scored)))


def kept_apart(settings: ReplicaSettings, rows: pa.Table) -> np.ndarray[Any, Any]:
    """Return the rows that the baseline can score; any of the others may end the process that tries."""
    with IsolatedReplica(settings) as isolated:
        return isolated.score(rows).kept


def kept_here(settings: ReplicaSettings, rows: pa.Table) -> np.ndarray[Any, Any]:
    """Do what `kept_apart` does in this process, which a row may end."""
    return Replica(settings).score(rows).kept


def path(model: str, key: str) -> Path:
    """Return where the answers of a model to the rows of this key are kept."""
    return home.home() / "baselines" / f"{model}-{key}.npz"


def keep(path: Path, answers: Answers) -> None:
    home_store.put(path, answers.packed(), _unpacked)


def read(path: Path) -> Answers | None:
    """Return the answers kept in a file; None where it is not there, or damaged."""
    return home_store.read(path, _unpacked)


def _unpacked(file: Path) -> Answers:
    return Answers.unpacked(file.read_bytes())


def require_sound(answers: Answers, gate: GateConfig) -> None:
    """Refuse a baseline that is not the model: nothing that is compared with it would be proved.

    Raises:
        GateError: its library answers otherwise, or a row's answer is not its own.
    """
    reference = answers.reference
    if not reference.agrees:
        raise GateError(
            f"nothing was scored: {reference.library} {reference.version} gives other answers to the same rows than "
            f"this model as optinfer reads it: up to {reference.largest_difference:.3g}, rounding explains "
            f"{reference.tolerance:.1g}{f' ({reference.note})' if reference.note else ''}. A setting of the model's "
            "files is read in another way; please report it with these files, or score with family: custom, whose "
            "class loads the model itself"
        )
    most = _MOST_OF_THE_SCALE * scale(answers.outputs)
    if answers.largest_difference > most and gate.require_batch_invariance is not False:
        raise GateError(
            f"nothing was scored: the model gives a row other answers when its neighbours in a micro-batch change (by "
            f"{answers.largest_difference:.3g}, {most:.2g} is allowed), so no row has an answer of its own; set "
            "batching.max_batch_size: 1 to score each row alone, or gate.require_batch_invariance: false to accept it"
        )


def _answers(scored: Scored, differs: float, reference: Reference) -> Answers:
    return Answers(scored.outputs, scored.kept, differs, reference, scored.rejected)


def _require_answers(scored: Scored, report: Callable[[str], None]) -> None:
    if not len(scored.kept):
        why = next(iter(scored.rejected.values()), "all rows have nulls")
        raise NoVariantError(f"the sample has no row that the baseline can score: {why}; check source.columns")
    if scored.rejected:
        named = [f"row {row} of it: {why}" for row, why in sorted(scored.rejected.items())[:_NAMED_ROWS]]
        rest = len(scored.rejected) - len(named)
        more = f"; and {rest} more" if rest else ""
        report(f"{len(scored.rejected)} rows of the sample cannot be scored: {'; '.join(named)}{more}")


def _moved(engine: Engine, rows: pa.Table, scored: Scored) -> float:
    return max(engine.invariance(rows, scored).values(), default=0.0)


def _reference_apart(isolated: IsolatedReplica, rows: pa.Table, scored: Scored) -> Reference:
    """Ask the library in the replica's process, too: it may need much memory, and take it with it."""
    isolated.patience = Patience(first=_REFERENCE_SECONDS, least=_REFERENCE_SECONDS)
    try:
        reference: Reference = isolated.ask(_reference, rows, scored)
    except (Died, OptinferError) as error:
        return Reference(note=f"nobody compared: asking the model's own library failed: {scrubbed(str(error))[:300]}")
    return reference


def _reference(engine: Engine, rows: pa.Table, scored: Scored) -> Reference:
    return _compared(engine, *_for_reference(engine, rows, scored))


def _compared(engine: Engine, rows: pa.Table, finished: pa.Table) -> Reference:
    try:
        return engine.family.reference(rows, finished)
    except Exception as error:
        return Reference(note=f"nobody compared: asking the model's own library failed: {described(error)}")


def _for_reference(engine: Engine, rows: pa.Table, scored: Scored) -> tuple[pa.Table, pa.Table]:
    """Return rows for the library, and the same rows as the baseline answered them."""
    count = len(scored.kept)
    if count > _REFERENCE_ROWS:
        lengths = prepare(engine.family, rows.take(pa.array(scored.kept))).features.lengths
        longest = np.argsort(-lengths, kind="stable")[:_LONGEST_ROWS] if lengths is not None else np.arange(0)
        others = np.setdiff1d(np.arange(count), longest)
        spread = others[np.linspace(0, len(others) - 1, _REFERENCE_ROWS - len(longest)).astype(np.int64)]
        places = np.sort(np.concatenate([longest, spread]))
    else:
        places = np.arange(count)
    return rows.take(pa.array(scored.kept[places])), scored.added.take(pa.array(places))
