"""The fragments of a plan that are left to score, in the runs in which replicas get them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optinfer.data.fragments import Plan

# One fragment in the model, one being read or committed.
OVERLAP = 2
# Ray Data hands out some 200 blocks a second and keeps 5 kB of each until the end: very many fragments go in runs.
MOST_BLOCKS = 16_384


@dataclass(frozen=True)
class Todo:
    """The fragments of a plan that are left, as (n,) ascending indices, dealt in `most_blocks` runs at most."""

    plan: Plan
    indices: np.ndarray[Any, Any]
    most_blocks: int = MOST_BLOCKS

    def __len__(self) -> int:
        return len(self.indices)

    def spans(self, replicas: int) -> Iterator[tuple[int, int]]:
        """Yield [first, stop) of each run.

        The first are one fragment long, so that receipts come soon. The last have no more rows than a replica's fair
        share of what is left, so that replicas finish together.
        """
        cuts, at_once = self.plan.fragments, replicas * OVERLAP
        rows = np.concatenate([[0], np.cumsum((cuts.stop - cuts.start)[self.indices])])
        longest, first = -(-len(self) // self.most_blocks), 0
        while first < len(self):
            fair = rows[first] + (rows[-1] - rows[first]) / at_once
            within = int(np.searchsorted(rows, fair, side="right")) - 1
            stop = max(min(first + longest, first + 1 + first // at_once, within), first + 1)
            yield first, stop
            first = stop

    def runs(self, replicas: int = 1) -> Iterator[str]:
        """Yield runs of fragments with their part names, as JSON."""
        for first, stop in self.spans(replicas):
            run = self.indices[first:stop].tolist()
            named = [{"fragment": asdict(self.plan.fragments[i]), "part": self.plan.part_name(i)} for i in run]
            yield json.dumps(named)
