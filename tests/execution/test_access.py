"""Who may reach the Ray of a job: nobody from elsewhere where it is started here, and doctor says where anybody may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from optinfer.errors import OptinferError
from optinfer.execution.access import require_guarded

# Every socket that listens in the process, in what Ray started for it, and in an actor.
_LISTENING = """
import json, psutil
from optinfer.execution.cluster import connected
with connected("local"):
    import ray
    @ray.remote
    class Actor:
        def node(self):
            return ray.util.get_node_ip_address()
    actor = Actor.remote()
    assert ray.get(actor.node.remote()) == "127.0.0.1"
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    found = {(p.name(), c.laddr.ip) for p in family for c in p.net_connections() if c.status == "LISTEN"}
print(json.dumps(sorted(found)))
"""


@pytest.mark.slow
def test_what_ray_starts_for_a_local_job_listens_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    done = subprocess.run([sys.executable, "-c", _LISTENING], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"raylet", "gcs_server"} <= {name for name, _ in found}
    assert {address.removeprefix("::ffff:") for _, address in found} == {"127.0.0.1"}, found


@pytest.fixture(autouse=True)
def own_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    return file


@contextmanager
def dashboard(status: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


def test_a_dashboard_that_takes_jobs_from_anybody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with dashboard(200, monkeypatch), pytest.raises(OptinferError, match="whoever reaches it runs code there"):
        require_guarded("127.0.0.1:6379")


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_asks_for_a_token_is_ok(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with dashboard(status, monkeypatch):
        assert "asks for a token" in require_guarded("127.0.0.1:6379")


def test_none_that_answers_is_said(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{free_port}")
    assert "no dashboard answers" in require_guarded("127.0.0.1:6379")


def test_a_token_that_others_can_read_is_said_with_the_command_that_mends_it(own_token: Path) -> None:
    own_token.write_text("t" * 32)
    own_token.chmod(0o644)
    above = [folder for folder in own_token.parents if folder.stat().st_uid == os.getuid() and folder != Path("/")]
    before = {folder: folder.stat().st_mode for folder in above}
    try:
        for folder in above:
            folder.chmod(before[folder] | 0o055)
        assert (
            f"CAN BE READ BY OTHERS, and who has it runs code on the cluster: `chmod 600 {own_token}`"
            in require_guarded("local")
        )
        own_token.parent.chmod(0o700)
        assert "its owner's alone" in require_guarded("local")
        own_token.parent.chmod(0o755)
        own_token.chmod(0o600)
        assert "its owner's alone" in require_guarded("local")
    finally:
        for folder, mode in before.items():
            folder.chmod(mode)


def test_a_local_ray_without_a_token_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(OptinferError, match="every user of this machine may run code"):
        require_guarded(None)
