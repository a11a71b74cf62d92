"""Ray for one job: started beside other work, ended as soon as nothing needs it. Ray itself is a double here."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator

import pytest

from optinfer.errors import ConfigError, OptinferError
from optinfer.execution import cluster
from optinfer.execution.cluster import Connection
from optinfer.execution.placement import Node
from optinfer.execution.ray_process import node_named


class RecordedRay:
    """Stands for the Ray of a process: runs from `init` to `shutdown`, and keeps what is asked of it."""

    def __init__(self, running: bool = False, fails: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.free: list[list[Node]] = []
        self.lost = ""
        self._running, self._fails = running, fails

    def is_initialized(self) -> bool:
        return self._running

    def init(self, where: str | None) -> None:
        if self._fails is not None:
            raise self._fails
        self.calls.append(f"init {where or 'here'}")
        self._running = True

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        self._running = False

    def free_nodes(self) -> list[Node]:
        return self.free.pop(0)

    def gone(self) -> str:
        return self.lost

    def abandon(self) -> None:
        self.calls.append("abandon")
        self._running = False


@pytest.fixture
def ray() -> RecordedRay:
    """Return a Ray that is not running at first."""
    return RecordedRay()


@pytest.fixture
def waits() -> Iterator[threading.Event]:
    """Return what is set when a connection says that it waits for another."""
    said = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    logger, heard = logging.getLogger(cluster.__name__), Heard(logging.WARNING)
    logger.addHandler(heard)
    yield said
    logger.removeHandler(heard)


def test_an_address_that_nobody_listens_on_is_refused_before_ray_is_asked(ray: RecordedRay, free_port: int) -> None:
    with (
        pytest.raises(OptinferError, match=rf"cannot connect to Ray at 127\.0\.0\.1:{free_port}: .*--address"),
        Connection(f"127.0.0.1:{free_port}", ray),
    ):
        pass
    assert ray.calls == []


@pytest.mark.parametrize("by", ["--address", "RAY_ADDRESS"])
def test_a_client_of_a_cluster_is_sent_another_way_before_anything_starts(
    ray: RecordedRay, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "ray://head:10001"
    if by == "RAY_ADDRESS":
        monkeypatch.setenv(by, given)
    fix = rf"^{by} ray://head:10001: .*`optinfer submit JOB.yaml --address http://head:8265`.*--address auto"
    with pytest.raises(ConfigError, match=fix), Connection(given if by == "--address" else None, ray):
        pass
    assert ray.calls == []


def test_what_was_started_ends_with_its_block(ray: RecordedRay) -> None:
    with Connection("local", ray) as connection:
        connection.open()
        connection.ready()
        assert ray.calls == ["init here"]
        assert not connection.growing
    assert ray.calls == ["init here", "shutdown"]


def test_a_block_that_needs_no_ray_starts_none(ray: RecordedRay) -> None:
    with Connection(None, ray):
        pass
    assert ray.calls == []


def test_a_ray_that_is_gone_is_told_at_once_and_asked_nothing_more(ray: RecordedRay) -> None:
    told: queue.SimpleQueue[OptinferError] = queue.SimpleQueue()
    with Connection("local", ray, when_lost=told.put) as connection:
        connection.open()
        connection.ready()
        ray.lost = "raylet"
        assert "Ray's raylet on this machine ended" in str(told.get(timeout=240))
        with pytest.raises(OptinferError, match="the same command goes on"):
            connection.ready()
    assert ray.calls == ["init here", "abandon"]


@pytest.mark.timeout(60)
def test_a_start_whose_gcs_is_killed_is_given_up_and_not_waited_for() -> None:
    class Stuck(RecordedRay):
        def init(self, where: str | None) -> None:
            self.calls.append("init")
            self.lost = "gcs_server"
            ended.wait()

    ended = threading.Event()
    ray, told = Stuck(), queue.SimpleQueue[OptinferError]()
    with Connection("local", ray, when_lost=told.put) as connection:
        connection.open()
        with pytest.raises(OptinferError, match="Ray's gcs_server on this machine ended"):
            connection.ready()
    assert ray.calls == ["init", "abandon"]
    assert not told.empty()
    ended.set()


def test_ray_ends_when_released_and_can_be_opened_again(ray: RecordedRay) -> None:
    with Connection("local", ray) as connection:
        for _ in range(2):
            connection.open()
            connection.ready()
            connection.release()
    assert ray.calls == ["init here", "shutdown"] * 2


@pytest.mark.timeout(20)
def test_what_is_open_is_not_opened_again(ray: RecordedRay) -> None:
    with Connection("local", ray) as connection:
        for _ in range(2):
            connection.open()
            connection.ready()
    assert ray.calls == ["init here", "shutdown"]


def test_an_error_of_rays_start_reaches_whoever_waits_for_it() -> None:
    ray = RecordedRay(fails=RuntimeError("no space left"))
    with Connection(None, ray) as connection:
        connection.open()
        with pytest.raises(OptinferError, match="Ray cannot start here: RuntimeError: no space left; check") as error:
            connection.ready()
    assert isinstance(error.value.__cause__, RuntimeError)
    assert "address" not in str(error.value)  # nobody gave one
    assert "/dev/shm" in str(error.value)
    assert ray.calls == ["shutdown"]  # of what had started


@pytest.mark.timeout(20)
def test_a_ray_that_is_broken_keeps_nobody_waiting() -> None:
    ray = RecordedRay(fails=SystemExit(15))  # Ray ends its process in places
    for _ in range(2):  # the first leaves the process as it was
        with Connection(None, ray) as connection:
            connection.open()
            with pytest.raises(OptinferError, match="Ray cannot start here: SystemExit: 15"):
                connection.ready()


@pytest.mark.timeout(200)
def test_of_two_jobs_in_two_threads_the_second_waits_for_the_end_of_the_first(
    ray: RecordedRay, waits: threading.Event
) -> None:
    started = threading.Event()

    def second() -> None:
        with Connection(None, ray) as connection:
            connection.open()
            connection.ready()
            started.set()

    other = threading.Thread(target=second)
    with Connection(None, ray) as connection:
        connection.open()
        connection.ready()
        other.start()
        assert waits.wait(120)
        assert not started.is_set()
    other.join()
    assert ray.calls == ["init here", "shutdown"] * 2


@pytest.mark.timeout(200)
def test_a_job_that_waits_for_another_can_be_interrupted(ray: RecordedRay, waits: threading.Event) -> None:
    def second() -> None:
        with Connection(None, ray) as connection:
            connection.open()
            waits.wait(120)

    other = threading.Thread(target=second)
    with Connection(None, ray) as connection:
        connection.open()
        connection.ready()
        other.start()
        other.join()
        assert waits.is_set()
    assert ray.calls == ["init here", "shutdown"]


def test_a_ray_that_runs_in_this_process_is_used_and_left_running() -> None:
    ray = RecordedRay(running=True)
    with Connection(None, ray) as connection:
        connection.open()
        connection.ready()
        assert connection.growing
    with pytest.raises(OptinferError, match="connected to Ray already"), Connection("10.0.0.1:6379", ray):
        pass
    assert ray.calls == []


@pytest.mark.parametrize("running", [True, False], ids=["joined", "started here"])
def test_a_jobs_own_replicas_do_not_count_as_taken(running: bool) -> None:
    ray = RecordedRay(running)
    ray.free = [[Node(cpus=2)], [Node(cpus=0)]]
    with Connection(None, ray) as connection:
        for _ in range(2):
            connection.open()
            assert connection.free() == [Node(cpus=2)]
        connection.release()
        connection.open()
        assert connection.free() == [Node(cpus=0)]


def test_a_node_tells_its_accelerator_and_its_own_kinds_of_resources() -> None:
    total = {"CPU": 8.0, "GPU": 1.0, "memory": 4e9, "accelerator_type:H100": 1.0, "node:10.0.0.1": 1.0, "jetson": 2.0}
    free = {**total, "CPU": 6.0, "jetson": 1.0, "object_store_memory": 1e9}
    assert node_named("a", free, total) == Node(6.0, 1.0, 4_000.0, "H100", {"jetson": 1.0}, "a")
