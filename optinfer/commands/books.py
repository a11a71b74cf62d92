"""The books of a run: what its folder holds, counted by receipts and by what lies there, until both agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from optinfer.commands.resolved import Resolved
from optinfer.commands.watching import Watching
from optinfer.data.account import Accounts
from optinfer.data.account import Committed as Found
from optinfer.data.in_place import COLUMN, REASON
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.data.output_listing import few
from optinfer.errors import AccountingError
from optinfer.records.manifest import Manifest
from optinfer.records.receipt import Receipt
from optinfer.secrets import clean
from optinfer.tracking.events import Committed, Resumed
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.tally import Tally

# (n,) ascending indices of fragments
Indices = np.ndarray[Any, Any]
# How often the folder is looked at: each time, what it lacks has been scored (again).
_LOOKS = 4


@dataclass(frozen=True)
class Books:
    """One run's account of one output; `lock` says that nobody else writes there."""

    job: Resolved
    output: Output
    lock: RunLock
    accounts: Accounts
    tally: Tally
    recorder: Recorder
    say: Callable[[str], None]

    @classmethod
    def opened(
        cls, job: Resolved, output: Output, lock: RunLock, recorder: Recorder, say: Callable[[str], None]
    ) -> Books:
        """Open the books of a run that has counted nothing yet."""
        tally = Tally(job.plan.rows, job.config.sink.error_threshold)
        return cls(job, output, lock, Accounts(output.folder, job.fingerprint), tally, recorder, say)

    def resume(self) -> Found:
        """Count what is committed: a listing decides. What is damaged is removed, and is scored again."""
        found, total = self.output.resume(self.accounts, self.job.plan), len(self.job.plan.fragments)
        for name in found.dropped:
            self.recorder.warn(f"{name} cannot be read and is dropped; the parts it names are opened instead")
        for line in found.damaged:
            self.recorder.warn(f"{line}; it is removed and scored again")
        self.tally.take_over(found.fragments.tolist(), found.rows_in, found.rows_out, found.rows_quarantined)
        self.tally.rows_by_variant.update(found.rows_by_variant)
        if len(found.fragments) and total:
            self.say(f"resuming: {len(found.fragments):,} of {total:,} fragments are committed")
        return found

    def note_resumed(self) -> None:
        """Record how many rows earlier attempts committed, as they are counted now: progress begins there."""
        if earlier := self.tally.total.rows_in:
            self.recorder.event(Resumed(earlier))

    def left(self, found: Found) -> Indices:
        """Return what is to score; an empty table has one part all the same."""
        return np.setdiff1d(np.arange(max(len(self.job.plan.fragments), 1)), found.fragments)

    def uncounted(self, left: Indices) -> Indices:
        """Return what is still to score of these, as receipts tell."""
        return np.setdiff1d(left, self.accounts.table().column("fragment").to_numpy())

    def take_back(self, found: Found) -> Indices:
        """Count fragments with quarantined rows no more, as these are tried again; return them."""
        table = self.accounts.table()
        with_some = table.filter(pc.greater(table.column("rows_quarantined"), 0))
        again = np.intersect1d(with_some.column("fragment").to_numpy(), found.fragments)
        held = self.accounts.forget(again)
        self.accounts.renew()
        self.tally.lose(again.tolist(), held.rows_in, held.rows_out, held.rows_quarantined)
        self.tally.rows_by_variant -= Counter(held.rows_by_variant)
        return again

    def until_whole(self, left: Indices, score: Callable[[Indices], None]) -> None:
        """Score what is left, look at the folder, and again while it lacks something: parts may go meanwhile.

        Raises:
            AccountingError: it never held them all; says what is missing.
        """
        for _ in range(_LOOKS):
            score(left)
            self.accounts.flush()
            left, reasons = self._lost()
            if not len(left):
                return
        raise AccountingError(
            f"{self.output.shown} loses parts as fast as they are made: {'; '.join(reasons)}; it is left without "
            "_SUCCESS: stop whoever writes there and run the same command again"
        )

    def _lost(self) -> tuple[Indices, tuple[str, ...]]:
        """Hold the folder against plan and receipts; name, uncount and remove what is not there as it was committed."""
        self.lock.require()  # puts the lease back, too
        if gone := self.output.binding.put_back_state():
            self.recorder.warn(f"{', '.join(gone)} was removed or changed during the run, and is put back")
            self.accounts.write_again()
        found, plan = self.output.compare(self.accounts, self.job.plan), self.job.plan
        self.output.delete(found.orphans)
        for line in few(found.reasons):
            self.recorder.warn(f"{line}: its fragment is scored again")
        if len(found.lost):
            self.output.remove(found.lost, self.accounts.table(), len(plan.fragments))
            held = self.accounts.forget(found.lost)
            self.accounts.write_again()
            self.tally.lose(found.lost.tolist(), held.rows_in, held.rows_out, held.rows_quarantined)
            self.tally.rows_by_variant -= Counter(held.rows_by_variant)
            self.output.attempts.forget()
        return found.lost, few(found.reasons)

    def commit_nothing(self, _: Indices) -> None:
        """Leave an output with a schema where the table is empty."""
        self.accounts.add(self.output.commit_empty(self.job.plan, self.job.fingerprint, self.job.schema))

    def count(self, receipt: Receipt) -> None:
        """Count a committed fragment.

        Raises:
            OutputConflictError: another run took the output.
            QuarantineError: more rows are quarantined than the job allows.
        """
        self.lock.check()
        self.recorder.event(Committed(receipt))
        self.accounts.add(receipt.made)
        self.tally.add(receipt)
        self.check_threshold()

    def check_threshold(self) -> None:
        in_place, where = self.job.config.sink.on_error == COLUMN, self.output.shown
        self.tally.check_threshold(f"column {REASON} of {where}" if in_place else f"{where}/_quarantine")

    def close(self, manifest: Manifest) -> Manifest:
        """End the output, whose rows all have to be accounted for; return the manifest as it is written."""
        watching = Watching(self.job, self.output, self.recorder.warn)
        run = watching.look(manifest.run, self.accounts.table(), self.tally)
        told = replace(manifest, run=run, warnings=tuple(self.recorder.warnings))
        finished = self.output.finish(clean(told), self.accounts, self.job.plan)
        watching.keep()
        return finished

    def check(self) -> None:
        """Check rows in = rows scored + rows quarantined = rows planned, and that these are not too many.

        Raises:
            QuarantineError: they are.
            AccountingError: they differ.
        """
        self.check_threshold()
        self.tally.check_complete(self.output.shown)

    @property
    def untouched(self) -> bool:
        """Tell whether nobody has committed anything: another variant may still fill this output."""
        return not (self.tally.counted or self.output.sink.committed())
