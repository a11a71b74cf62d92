"""Whether Ray can be had is told at once, with the name of what says so; Ray itself would be asked for minutes."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest

from optinfer.errors import OptinferError
from optinfer.execution import reach
from optinfer.execution.reach import chosen, require_reachable, require_startable


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, (None, "--address")),
        (None, "", (None, "--address")),
        (None, "  ", (None, "--address")),
        (None, "local", (None, "RAY_ADDRESS")),
        (None, "auto", ("auto", "RAY_ADDRESS")),
        (None, " 10.0.0.1:6379 ", ("10.0.0.1:6379", "RAY_ADDRESS")),
        ("", "10.0.0.1:6379", ("10.0.0.1:6379", "RAY_ADDRESS")),
        ("local", "10.0.0.1:6379", (None, "--address")),
        ("auto", None, ("auto", "--address")),
        ("auto", "10.0.0.1:6379", ("10.0.0.1:6379", "RAY_ADDRESS")),  # as Ray itself takes it
        ("ray://a:1", "10.0.0.1:6379", ("ray://a:1", "--address")),
    ],
)
def test_the_address_given_comes_before_that_of_the_environment(
    given: str | None, variable: str | None, expected: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert chosen(given) == expected


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("garbage", "no HOST:PORT"),
        ("host:port", "invalid literal"),
        (":6379", "no HOST:PORT"),
        ("127.0.0.1:99999999", None),
        ("http://127.0.0.1:8265", "where jobs are submitted"),
        ("ws://127.0.0.1:1", None),
        ("a b:1", None),
        ("ray://", "no HOST:PORT"),
        ("x" * 70 + ":1", None),
        ("[::1]:1", None),
        ("127.0.0.1:1/", "refused"),
    ],
)
def test_an_address_that_is_none_is_refused_and_what_named_it_is_said(address: str, why: str | None) -> None:
    with pytest.raises(OptinferError, match=why) as refused:
        require_reachable(address, "RAY_ADDRESS")
    assert str(refused.value).startswith(f"cannot connect to Ray at {address}")
    assert "check RAY_ADDRESS (HOST:6379 or auto), or leave it out to run here" in str(refused.value)
    assert "--address" not in str(refused.value)


@pytest.fixture
def web_server() -> Iterator[str]:
    """Listen as something else does, and answer as it would."""

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_an_address_where_something_else_listens_is_refused(web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptinferError, match="something else than Ray listens there"):
        require_reachable(web_server, "--address")
    monkeypatch.setenv("RAY_USE_TLS", "1")  # where nothing can be told from outside
    require_reachable(web_server, "--address")


def test_one_that_never_answers_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OptinferError, match="timed out"):
        require_reachable(f"127.0.0.1:{server.getsockname()[1]}", "--address", seconds=0.2)


@pytest.mark.usefixtures("shared_ray")
def test_a_ray_that_runs_is_found() -> None:
    import ray

    require_reachable(ray.get_runtime_context().gcs_address, "--address")
    require_reachable("auto", "--address")


@pytest.mark.usefixtures("shared_ray")
def test_sockets_are_as_long_as_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    theirs = worker._global_node.plasma_store_socket_name
    ours = reach._temp_folder() / reach._SESSION.format(pid=os.getpid())
    assert len(theirs) == len(str(ours))


def test_a_temporary_folder_too_deep_for_sockets_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 60)
    with pytest.raises(
        OptinferError, match=r"TMPDIR=/tmp/x+ is too long .* set RAY_TMPDIR .* (\d+) characters"
    ) as error:
        require_startable()
    allowed = int(str(error.value).partition("path has ")[2].partition(" ")[0])
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * allowed)
    with pytest.raises(OptinferError, match="too long"):
        require_startable()
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * (allowed - 1))
    require_startable()


def test_a_temporary_folder_that_is_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:  # of a name that is short enough for sockets
        monkeypatch.setenv("RAY_TMPDIR", file.name)
        with pytest.raises(OptinferError, match=r"temporary folder .*/ray cannot be written to .*set RAY_TMPDIR"):
            require_startable()


def test_a_ray_that_is_nowhere_is_to_be_started() -> None:
    with pytest.raises(OptinferError, match=r"no Ray runs on this machine; start one .*or leave RAY_ADDRESS out"):
        require_reachable("auto", "RAY_ADDRESS", programs=lambda: ["init", "sh"])
