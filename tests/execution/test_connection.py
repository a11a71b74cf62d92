"""Ray for one job: started beside other work, ended as soon as nothing needs it. Ray itself is a double here."""

from __future__ import annotations

import threading
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
    with (
        pytest.raises(OptinferError, match=rf"cannot connect to Ray at ray://127\.0\.0\.1:{free_port}: .*--address"),
        Connection(f"ray://127.0.0.1:{free_port}"),
    ):
        pass
    assert calls == []


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
        with pytest.raises(OptinferError, match="Ray cannot start here: RuntimeError: no space left; check") as error:
            connection.ready()
    assert isinstance(error.value.__cause__, RuntimeError)
    assert "address" not in str(error.value)  # nobody gave one
    assert "/dev/shm" in str(error.value)
    assert calls == ["shutdown"]  # of what had started


@pytest.mark.timeout(20)
def test_a_ray_that_is_broken_keeps_nobody_waiting(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise SystemExit(15)  # Ray ends its process in places

    monkeypatch.setattr("ray.init", init)
    for _ in range(2):  # the first leaves the process as it was
        with Connection(None) as connection:
            connection.open()
            with pytest.raises(OptinferError, match="Ray cannot start here: SystemExit: 15"):
                connection.ready()


@pytest.mark.timeout(30)
def test_of_two_jobs_in_two_threads_the_second_waits_for_the_end_of_the_first(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, started = threading.Event(), threading.Event()
    monkeypatch.setattr("ray.is_initialized", lambda: calls.count("init local") > calls.count("shutdown"))
    monkeypatch.setattr(cluster._log, "warning", lambda *_: waits.set())

    def second() -> None:
        with Connection(None) as connection:
            connection.open()
            connection.ready()
            started.set()

    other = threading.Thread(target=second)
    with Connection(None) as connection:
        connection.open()
        connection.ready()
        other.start()
        assert waits.wait(10)
        assert not started.is_set()
    other.join()
    assert calls == ["init local", "shutdown"] * 2


@pytest.mark.timeout(30)
def test_a_job_that_waits_for_another_can_be_interrupted(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr(cluster._log, "warning", lambda *_: waits.set())

    def second() -> None:
        with Connection(None) as connection:
            connection.open()
            waits.wait(10)

    other = threading.Thread(target=second)
    with Connection(None) as connection:
        connection.open()
        connection.ready()
        other.start()
        other.join()
        assert waits.is_set()
    assert calls == ["init local", "shutdown"]


def test_a_ray_that_runs_in_this_process_is_used_and_left_running(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with Connection(None) as connection:
        connection.open()
        connection.ready()
        assert connection.growing
    with pytest.raises(OptinferError, match="connected to Ray already"), Connection("10.0.0.1:6379"):
        pass
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
