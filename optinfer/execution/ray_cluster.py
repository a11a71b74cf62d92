"""How the cluster stands for this job, as Ray's GCS tells it: its replicas, its nodes, those that come and go."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from optinfer.execution.watchdog import Standing

# What Ray Data calls the class of a pool's actors.
_REPLICA = "MapWorker"
# For how long a replica takes for true what it was told of its node.
ASK_SECONDS = 2.0
# Where the GCS has what replicas say of their nodes.
_REFUSALS = b"optinfer-refusals"


def standing() -> Standing:
    """Return how things stand now; three small questions to the GCS."""
    import ray
    from ray._private.state import state

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    actors = state.actor_table(None, job, "ALIVE").values()
    free = ray.available_resources()
    return Standing(
        replicas=sum(one["ActorClassName"].startswith(_REPLICA) for one in actors),
        nodes=alive(),
        coming=_coming(),
        free_cpus=free.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
    )


def own_cpus() -> int:
    """Return the CPUs that Ray shares among the replicas of this process's node."""
    import ray

    return cpus_of(ray.get_runtime_context().get_node_id()) or os.cpu_count() or 1


def cpus_of(node: str, resource: str = "CPU") -> int:
    """Return the CPUs that Ray shares among the replicas of a node, or another resource of it; 0 where it has none."""
    import ray

    return int(sum(each["Resources"].get(resource, 0) for each in ray.nodes() if each["NodeID"] == node))


class RayNodes:
    """The nodes of the cluster that this actor is in.

    Args:
        at_start: those that were there when the job looked at its nodes.
        refusals: where the driver looks for those that a replica refused; `KeptAway` names it.
        clock: gives seconds.
    """

    def __init__(self, at_start: frozenset[str], refusals: bytes, clock: Callable[[], float] = monotonic) -> None:
        self._at_start, self._refusals = at_start, refusals
        self._clock, self._asked, self._leaving = clock, -math.inf, False

    def here(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def gone(self, node: str) -> bool:
        import ray

        return node not in {each["NodeID"] for each in ray.nodes() if each["Alive"]} or node in draining()

    def leaving(self) -> bool:
        """Ask the GCS now and then: a cloud gives half a minute or more, and a thousand replicas ask.

        Where it does not answer, nobody said so; that is no error of the rows that wait meanwhile.
        """
        if self._clock() - self._asked >= ASK_SECONDS:
            self._asked = self._clock()
            with contextlib.suppress(Exception):
                self._leaving = self.here() in draining()
        return self._leaving

    def leave(self) -> None:
        """End the process without a word to Ray, which then starts the actor on a node that stays."""
        os._exit(1)

    def came_late(self) -> bool:
        return self.here() not in self._at_start

    def refuse(self, why: str) -> None:
        """Tell the GCS, where the driver looks before it starts another replica."""
        _gcs().internal_kv_put(self._refusals + self.here().encode(), why.encode(), True, _REFUSALS)


class KeptAway:
    """The nodes on which a replica refused to score with what a job has proved; asked by the driver.

    Attributes:
        name: under which replicas tell it.
        untold: reasons that `told` has not returned yet.
    """

    def __init__(self) -> None:
        self.name = f"{uuid.uuid4().hex}/".encode()
        self._known: dict[str, str] = {}
        self.untold: list[str] = []

    def look(self) -> Mapping[str, str]:
        """Return node -> why, as the GCS has it now."""
        gcs = _gcs()
        for key in refused_by(self.name):
            node = key.removeprefix(self.name).decode()
            if node not in self._known:
                self._known[node] = gcs.internal_kv_get(key, _REFUSALS).decode()
                self.untold.append(self._known[node])
        return self._known

    def told(self) -> list[str]:
        """Return the reasons that were found since they were told last."""
        told, self.untold = self.untold, []
        return told


def refused_by(name: bytes) -> list[bytes]:
    """Return what the GCS has of refusals, by the name under which they are told; of all jobs where it is empty."""
    return sorted(_gcs().internal_kv_keys(name, _REFUSALS))


def alive() -> frozenset[str]:
    """Return the names of the nodes that live."""
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _gcs() -> Any:
    from ray._private.worker import global_worker

    return global_worker.gcs_client


def draining() -> Mapping[str, int]:
    """Return the nodes that were told to leave -> until when, in milliseconds since the epoch; 0 where nobody said."""
    from ray._private.state import state

    told: Mapping[str, int] = state.get_draining_nodes()
    return told


def _coming() -> int:
    """Count the nodes that an autoscaler of either kind has asked for; a cluster without one has none."""
    from ray._private import ray_constants
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    gcs = _gcs()
    if is_autoscaler_v2(gcs_client=gcs):
        status = get_cluster_status(gcs.address)
        return len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    told = gcs.internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS.encode(), None)
    report: dict[str, Any] = json.loads(told or b"{}").get("autoscaler_report") or {}
    return len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())
