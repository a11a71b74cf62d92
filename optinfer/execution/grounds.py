"""What the nodes of a cluster are, as far as answers depend on it; each is asked where it is, once in a command."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optinfer.backends import BACKENDS
from optinfer.execution.placement import Node
from optinfer.inference.canaries import ground, unfit
from optinfer.inference.replica import ReplicaSettings
from optinfer.records.canary import Ground

Known = Mapping[str, tuple[str, Ground]]


class Grounds:
    """What this command has heard of nodes."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[str, Ground]] = {}

    def asked(self, nodes: Sequence[Node], packages: Collection[str] = ()) -> Known:
        """Return node -> its host and what it is, of those that answer: one that ends meanwhile scores nothing anyway.

        Args:
            packages: whose versions are told, besides those of every backend.
        """
        wanted = {*packages, *(name for backend in BACKENDS.names() for name in BACKENDS.get(backend).requires)}
        unheard = [one for one in nodes if not wanted <= self._runtime(one).keys()]
        self._heard |= _asked(unheard, sorted(wanted))
        return {one.name: self._heard[one.name] for one in nodes if one.name in self._heard}

    def judged(self, nodes: Sequence[Node], pools: Sequence[ReplicaSettings]) -> list[Node]:
        """Return the nodes, those on which the pool that they would get cannot answer as certified with the reason."""
        proved = [one for one in pools if one.canaries is not None]
        packages = {name for one in proved if one.canaries for name in one.canaries.ground.runtime}
        known = self.asked(nodes, packages) if proved else {}

        def one(node: Node) -> Node:
            if node.name not in known or node.unfit:
                return node
            host, there = known[node.name]
            fit = [one for one in proved if (one.device == "cuda") == bool(node.gpus)] or proved
            for settings in fit:  # several where each replica holds the arms of an experiment
                if why := unfit(settings, there):
                    return replace(node, unfit=f"{host} would not score with {settings.variant}: {why[0]}; {why[1]}")
            return replace(node, unfit="")

        return [one(node) for node in nodes]

    def _runtime(self, node: Node) -> Mapping[str, str]:
        return self._heard[node.name][1].runtime if node.name in self._heard else {}


def _asked(nodes: Sequence[Node], packages: Sequence[str]) -> dict[str, tuple[str, Ground]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(_look)

    def ask(node: Node) -> Any:
        there = NodeAffinitySchedulingStrategy(node.name, soft=False)
        asking = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        return asking.remote("cuda" if node.gpus else "cpu", packages)

    asking = {node.name: ask(node) for node in nodes}
    found = {}
    for name, answer in asking.items():
        with contextlib.suppress(ray.exceptions.RayError):
            found[name] = ray.get(answer)
    return found


def _look(device: str, packages: Sequence[str]) -> tuple[str, Ground]:
    return socket.gethostname(), ground(device, packages)
