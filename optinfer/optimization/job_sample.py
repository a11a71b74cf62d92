"""A sample of the job's own rows, as its family sees them: variants are judged by one part, and shaped by the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.data.sampling import digest, draw
from optinfer.data.sources import SOURCES, Reader
from optinfer.errors import ConfigError
from optinfer.families import Features, as_roles
from optinfer.inference.preparing import prepare
from optinfer.optimization.gate import truth_of
from optinfer.optimization.probing import probe_rows
from optinfer.optimization.subject import Subject
from optinfer.records.tuning import Lengths

CALIBRATION_ROWS = 256
# Enough to see whether rows have lengths at all.
_FIRST_ROWS = 16


class JobSample:
    """Rows drawn from a table, for one job's model.

    Attributes:
        gate, calibration: source rows that judge variants, and those that shape them; they share none.
        gate_digest, calibration_digest: identify what the model sees of them.
    """

    def __init__(self, subject: Subject, fragments: Sequence[Fragment]) -> None:
        self._subject, source, label = subject, subject.config.source, subject.config.gate.label
        labels = [label] if label else []
        columns = list(dict.fromkeys([*source.columns_read, *labels]))
        drawn = draw(
            fragments,
            self.reader(columns),
            list(dict.fromkeys([*self.never_null, *labels])),
            subject.config.gate.sample_rows,
            CALIBRATION_ROWS,
            skip_unreadable=source.on_bad_file == "quarantine",
        )
        self.gate, self.calibration = drawn.gate, drawn.calibration
        if label and not self.gate.num_rows:
            raise ConfigError(
                f"gate.label: no sampled row has a value in {label!r} and in all columns the model needs; "
                "name a column with the true answers, or leave gate.label out to compare with the baseline"
            )
        self.gate_digest, self.calibration_digest = (digest(self.roles(rows)) for rows in (self.gate, self.calibration))

    @property
    def never_null(self) -> list[str]:
        """Columns in which a null leaves the model without an input."""
        return [] if self._subject.family.takes_nulls else self._subject.config.source.columns_read

    def reader(self, columns: Sequence[str]) -> Reader:
        """Return what reads fragments of the job's table."""
        return SOURCES.get(self._subject.source).reader(columns)

    def roles(self, table: pa.Table) -> pa.Table:
        """Return source rows as the family sees them: one column per role."""
        return as_roles(table, self._subject.config.source.columns)

    def features(self, rows: pa.Table) -> Features:
        """Return rows, one column per role, made ready for the model."""
        return prepare(self._subject.family, rows).features

    def lengths_of(self, rows: pa.Table) -> Lengths:
        """Return the tokens that source rows take; decodes no more than a few where rows have no lengths."""
        roles = self.roles(rows)
        if self.features(roles.slice(0, _FIRST_ROWS)).lengths is None:
            return Lengths()
        ready = prepare(self._subject.family, roles)
        assert ready.features.lengths is not None
        return Lengths.of(ready.features.lengths[ready.usable])

    def micro_batches(self, kept: np.ndarray[Any, Any], most_rows: int, device: str) -> list[pa.Table]:
        """Return a few micro-batches of the gate's rows that the model can answer, a column per role: for a probe.

        Args:
            kept: these rows.
            most_rows: what a micro-batch may hold.
        """
        rows = self.roles(self.gate).take(pa.array(kept))
        if self.features(rows.slice(0, _FIRST_ROWS)).lengths is None:
            chosen = probe_rows(None, rows.num_rows, most_rows, device)
        else:
            chosen = probe_rows(self.features(rows).lengths, rows.num_rows, most_rows, device)
        return [rows.take(pa.array(batch)) for batch in chosen]

    @property
    def labels(self) -> np.ndarray[Any, Any] | None:
        """The true answers of the gate's rows (`truth_of`); None without a label."""
        label = self._subject.config.gate.label
        if not label:
            return None
        return truth_of(self.gate.column(label))
