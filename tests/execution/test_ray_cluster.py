"""What a replica hears of its cluster, where there is nobody to say it; test_cluster.py has the rest."""

from __future__ import annotations

from optinfer.execution.ray_cluster import RayNodes


class Unanswered(RayNodes):
    """Nodes of which nobody tells."""

    def here(self) -> str:
        raise ConnectionError("the GCS is away")


def test_where_nobody_answers_no_node_leaves() -> None:
    """A replica asks before each micro-batch: an error would be taken for one of its rows."""
    assert not Unanswered(frozenset(), b"").leaving()
