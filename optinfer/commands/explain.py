"""explain(output, where): where a row came from, what scored it, and what that answers today."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from optinfer.commands.again import Scorers
from optinfer.commands.finished import Finished, finished
from optinfer.commands.held import arm_column, held, score_again
from optinfer.commands.scorer import Scorer
from optinfer.data.fragments import Fragment, part_name
from optinfer.data.output import JOURNALS
from optinfer.data.sought import Match, matches
from optinfer.data.stored import StoredPart
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.records.inspection import Explained, ExplainRecord, Proved
from optinfer.tracking.journals_beside import Journals


def explain(
    url: str, where: Mapping[str, str], most: int = 10, say: Callable[[str], None] = lambda line: None
) -> ExplainRecord:
    """Show the rows of a finished output whose columns have these values, each scored again, alone.

    Args:
        where: columns of the output -> values, as texts.
        most: rows that are shown.

    Raises:
        ConfigError: it is no finished output, it has no such column or row, or its model is not there.
    """
    done = finished(url, say)
    found = list(islice(matches(done.output, done.total, where), most + 1))
    if not found:
        asked = ", ".join(f"{name}={value}" for name, value in where.items())
        raise ConfigError(f"{done.output.shown} has no row with {asked}, nor is one quarantined")
    with ExitStack() as stack:
        scorers = Scorers(done, stack, say)
        made = _Made(done, scorers)
        rows = tuple(made.explained(match) for match in found[:most])
        return ExplainRecord(
            output=done.output.shown,
            job=done.config.name,
            run_id=done.manifest.run.run_id,
            where=dict(where),
            rows=rows,
            more=len(found) > most,
            certificates=tuple(_proved(scorer) for scorer in scorers.found if scorer.certificate),
            changed=scorers.changed,
        )


@dataclass
class _Made:
    """What made the rows of an output; its parts and journals are each read once."""

    done: Finished
    scorers: Scorers
    _parts: dict[int, StoredPart] = field(default_factory=dict)

    def explained(self, match: Match) -> Explained:
        part = self._part(match.fragment)
        place = int((part.aside_places if match.aside else part.places)[match.row])
        kept = part.aside if match.aside else part.rows
        assert kept is not None
        stored = kept.slice(match.row, 1).to_pylist()[0]
        column = arm_column(self.done)
        committed = self._journals.committed(part.name, part.made.sha256)
        planned = self.done.source.frozen[match.fragment]
        return Explained(
            part=part.name,
            row=None if match.aside else match.row,
            source=redact(planned.path),
            source_row=planned.start + place,
            variant=str(part.made.variant),
            artifact=str(part.made.artifact),
            node=committed.node if committed else "",
            committed=committed.time if committed else None,
            no_answer=part.no_answer.get(place, ""),
            arm=stored.get(column) if column else None,
            stored=stored,
            **self._again(match.fragment, part, place),
        )

    def _part(self, index: int) -> StoredPart:
        if index not in self._parts:
            self._parts[index] = self.done.part(part_name(index, self.done.total), index)
        return self._parts[index]

    def _again(self, index: int, part: StoredPart, place: int) -> dict[str, Any]:
        """Return the row's answer of now, held against the stored one; or why there is none."""
        fragment = self.done.source.fragment(index)
        if fragment is None:
            return {"again": {}, "not_again": f"its file {self._wrong(index)}"}
        try:
            return self._compared(fragment, part, place)
        except OptinferError as error:
            return {"again": {}, "not_again": str(error)}

    def _compared(self, fragment: Fragment, part: StoredPart, place: int) -> dict[str, Any]:
        scorer = self.scorers.of(part.made)
        scored = score_again(self.done, fragment, np.array([place]), scorer)
        now = held(self.done, part, scored)
        if not len(scored.kept):
            return {"again": {}, "not_again": scored.rejected[place], "same": place in part.no_answer}
        again = scored.added.to_pylist()[0]
        if not len(now.both):
            return {"again": again, "same": False}
        far = float(now.moved.farthest[0])
        difference = far if math.isfinite(far) else None
        return {"again": again, "difference": difference, "same": far <= scorer.tolerance}

    def _wrong(self, index: int) -> str:
        return self.done.source.wrong[self.done.source.frozen[index].path]

    @cached_property
    def _journals(self) -> Journals:
        folder = self.done.output.folder
        runs = [entry.name for entry in folder.entries(JOURNALS) if entry.size is None]
        return Journals({
            run: {
                name: data
                for name in folder.names(under=f"{JOURNALS}/{run}")
                if (data := folder.read(f"{JOURNALS}/{run}/{name}")) is not None
            }
            for run in runs
        })  # fmt: skip


def _proved(scorer: Scorer) -> Proved:
    certificate = scorer.certificate
    assert certificate is not None
    return Proved(
        variant=certificate.variant,
        artifact=certificate.artifact,
        sample=certificate.sample,
        measured_at=certificate.measured_at,
        metric=certificate.fidelity.metric,
        value=certificate.fidelity.value,
        rows=certificate.fidelity.rows,
        reference=certificate.reference.said,
        batch_invariant=certificate.batch_invariant,
        tolerance=scorer.tolerance,
    )
