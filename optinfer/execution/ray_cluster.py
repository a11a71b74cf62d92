"""How the cluster stands for this job, as Ray's GCS tells it: its replicas, its nodes, those that come and go."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from optinfer.execution.watchdog import Standing

# What Ray Data calls the class of a pool's actors.
_REPLICA = "MapWorker"
_ASK_SECONDS = 2.0


def standing() -> Standing:
    """Return how things stand now; three small questions to the GCS."""
    import ray
    from ray._private.state import state

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    alive = state.actor_table(None, job, "ALIVE").values()
    free = ray.available_resources()
    return Standing(
        replicas=sum(one["ActorClassName"].startswith(_REPLICA) for one in alive),
        nodes=frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"]),
        coming=_coming(),
        free_cpus=free.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
    )


class RayNodes:
    """The nodes of the cluster that this actor is in.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._asked, self._leaving = clock, -math.inf, False

    def here(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def gone(self, node: str) -> bool:
        import ray

        return node not in {each["NodeID"] for each in ray.nodes() if each["Alive"]} or node in _draining()

    def leaving(self) -> bool:
        """Ask the GCS now and then: a cloud gives half a minute or more, and a thousand replicas ask."""
        if self._clock() - self._asked >= _ASK_SECONDS:
            self._asked, self._leaving = self._clock(), self.here() in _draining()
        return self._leaving

    def leave(self) -> None:
        """End the process without a word to Ray, which then starts the actor on a node that stays."""
        os._exit(1)


def _draining() -> Mapping[str, int]:
    from ray._private.state import state

    draining: Mapping[str, int] = state.get_draining_nodes()
    return draining


def _coming() -> int:
    """Count the nodes that an autoscaler of either kind has asked for; a cluster without one has none."""
    from ray._private import ray_constants
    from ray._private.worker import global_worker
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    gcs = global_worker.gcs_client
    if is_autoscaler_v2(gcs_client=gcs):
        status = get_cluster_status(gcs.address)
        return len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    told = gcs.internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS.encode(), None)
    report: dict[str, Any] = json.loads(told or b"{}").get("autoscaler_report") or {}
    return len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())
