"""Ray for one job: started beside other work, ended as soon as nothing needs it. Ray itself is a double here."""

from __future__ import annotations

from typing import Any

import pytest

from optinfer.errors import OptinferError
from optinfer.execution import cluster
from optinfer.execution.cluster import Connection
from optinfer.execution.placement import Node


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is asked of Ray, which is not running at first."""
    import ray

    said: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: said.append(f"init {address}"))
    monkeypatch.setattr(ray, "shutdown", lambda: said.append("shutdown"))
    return said


def test_an_address_that_nobody_listens_on_is_refused_before_ray_is_asked(calls: list[str], free_port: int) -> None:
    with Connection(f"ray://127.0.0.1:{free_port}") as connection:
        with pytest.raises(
            OptinferError, match=rf"cannot connect to Ray at ray://127\.0\.0\.1:{free_port}: .*--address"
        ):
            connection.open()
    assert calls == []


@pytest.mark.parametrize("address", ["somewhere", "host:port"])
def test_an_address_that_is_none_is_refused(calls: list[str], address: str) -> None:
    with Connection(address) as connection, pytest.raises(OptinferError, match="HOST:PORT"):
        connection.open()


def test_what_was_started_ends_with_its_block(calls: list[str]) -> None:
    with Connection("local") as connection:
        connection.open()
        connection.ready()
        assert calls == ["init local"]
        assert not connection.growing
    assert calls == ["init local", "shutdown"]


def test_a_block_that_needs_no_ray_starts_none(calls: list[str]) -> None:
    with Connection(None):
        pass
    assert calls == []


def test_ray_ends_when_released_and_can_be_opened_again(calls: list[str]) -> None:
    with Connection("local") as connection:
        for _ in range(2):
            connection.open()
            connection.ready()
            connection.release()
    assert calls == ["init local", "shutdown"] * 2


@pytest.mark.timeout(20)
def test_what_is_open_is_not_opened_again(calls: list[str]) -> None:
    with Connection("local") as connection:
        for _ in range(2):
            connection.open()
            connection.ready()
    assert calls == ["init local", "shutdown"]


def test_an_error_of_rays_start_reaches_whoever_waits_for_it(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("ray.init", init)
    with Connection(None) as connection:
        connection.open()
        with pytest.raises(
            OptinferError, match="cannot connect to Ray at local: no space left; check --address"
        ) as error:
            connection.ready()
    assert isinstance(error.value.__cause__, RuntimeError)
    assert calls == []


def test_a_ray_that_runs_in_this_process_is_used_and_left_running(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with Connection(None) as connection:
        connection.open()
        connection.ready()
        assert connection.growing
    with Connection("10.0.0.1:6379") as other, pytest.raises(OptinferError, match="connected to Ray already"):
        other.open()
    assert calls == []


@pytest.mark.parametrize("running", [True, False], ids=["joined", "started here"])
def test_a_jobs_own_replicas_do_not_count_as_taken(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    answers = iter([[Node(cpus=2)], [Node(cpus=0)]])
    monkeypatch.setattr("ray.is_initialized", lambda: running)
    monkeypatch.setattr(cluster, "free_nodes", lambda: next(answers))
    with Connection(None) as connection:
        for _ in range(2):
            connection.open()
            assert connection.free() == [Node(cpus=2)]
        connection.release()
        connection.open()
        assert connection.free() == [Node(cpus=0)]


def test_a_node_tells_its_accelerator_and_its_own_kinds_of_resources() -> None:
    total = {"CPU": 8.0, "GPU": 1.0, "memory": 4e9, "accelerator_type:H100": 1.0, "node:10.0.0.1": 1.0, "jetson": 2.0}
    free = {**total, "CPU": 6.0, "jetson": 1.0, "object_store_memory": 1e9}
    assert cluster._node("a", free, total) == Node(6.0, 1.0, 4_000.0, "H100", {"jetson": 1.0}, "a")
