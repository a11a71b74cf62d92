"""`optinfer submit` against a real head with tokens on: docs/submit.md has these cases as a table."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import read_rows, wait_until
from tests.deployment.conftest import Head, Work
from tests.deployment.proxy import between

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # several jobs in turn, on a machine that has other work


class TestToTheEnd:
    def test_a_job_is_sent_followed_and_answered_and_the_next_one_has_the_next_number(self, work: Work) -> None:
        done = work.submit()
        assert done.code == 0, done.err
        assert done.out.startswith("10 of 10 rows scored")
        assert re.fullmatch(rf"optinfer-{work.name}-[0-9a-f]{{12}}-1", done.id)
        assert [row["y"] for row in read_rows(work.folder / "out")] == [[2.0 * x] for x in range(10)]

        again = work.submit("--json")
        answered = json.loads(again.out)
        assert answered["submission_id"] == done.id[:-1] + "2"
        assert (answered["exit_code"], answered["result"]["status"]) == (0, "nothing to do")
        assert (answered["attached"], answered["attempts"], answered["driver_exit_code"]) == (False, 1, 0)

    @pytest.mark.parametrize(
        ("change", "code", "said"),
        [
            ("source.path=/nowhere.parquet", 2, "/nowhere.parquet does not exist"),
            ("gate.min=1.1", 4, "no variant passes the gate"),
        ],
    )
    def test_the_exit_code_is_the_jobs_own(self, work: Work, change: str, code: int, said: str) -> None:
        done = work.submit("--set", change, "--json")
        assert done.code == code
        assert said in done.err
        assert "Traceback" not in done.err
        answered = json.loads(done.out)
        assert (answered["exit_code"], answered["driver_exit_code"], answered["status"]) == (code, code, "FAILED")
        assert said in answered["result"]["message"]

    def test_too_many_quarantined_rows_end_3(self, work: Work) -> None:
        pq.write_table(pa.table({"x": pa.array([1.0, None], pa.float32())}), work.folder / "table.parquet")
        done = work.submit()
        assert done.code == 3, done.err
        assert done.out == ""

    def test_an_output_of_another_job_ends_5_and_is_not_tried_again(self, work: Work) -> None:
        first = work.submit()
        other = work.submit("--set", "source.limit=3", "--retries", 2)
        assert (first.code, other.code) == (0, 5), other.err
        assert other.id != first.id
        assert other.id.endswith("-1")
        assert "submitting it again" not in other.err

    def test_a_command_that_the_cluster_has_not_is_named_with_its_option(self, work: Work) -> None:
        done = work.submit("--python", "no-such-python")
        assert done.code == 127
        assert "name its interpreter with --python" in done.err


@pytest.mark.cluster
class TestLive:
    def test_a_job_that_is_live_is_attached_to(self, gated: Work) -> None:
        first = gated.start(*gated.waiting())
        gated.driver()
        second = gated.start(*gated.waiting())
        second.wait_until_it_says("waiting 3")
        gated.open_gate()
        one, other = first.end(), second.end()
        assert (one.code, other.code) == (0, 0), one.err
        assert other.id == one.id
        assert f"attached to {one.id}, which is running" in other.err
        assert one.out.startswith("10 of 10 rows scored")
        assert one.waited == other.waited == list(range(len(one.waited)))
        assert [row["y"] for row in read_rows(gated.folder / "out")] == [2.0 * x for x in range(10)]

    def test_two_at_once_are_one_job(self, gated: Work) -> None:
        both = [gated.start(*gated.waiting()) for _ in range(2)]
        gated.driver()
        for running in both:
            running.wait_until_it_says("waiting 1")
        gated.open_gate()
        ended = [running.end() for running in both]
        assert [done.code for done in ended] == [0, 0]
        assert len({done.id for done in ended}) == 1
        assert len(gated.known()) == 1

    def test_an_id_is_taken_once(self, head: Head, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from optinfer.deployment.jobs import Entry; "
            "from optinfer.deployment.jobs_api import RayJobs, Reach; jobs = RayJobs(Reach(sys.argv[1])); "
            "entry = Entry('true', Path(sys.argv[2]), {}, {}); "
            "print([jobs.send('optinfer-taken-0-1', entry) for _ in range(2)])"
        )
        (tmp_path / "job.yaml").write_text("")
        done = subprocess.run(
            [sys.executable, "-c", code, head.address, tmp_path],
            env=head.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "[True, False]", done.stderr

    def test_no_wait_prints_the_id(self, gated: Work) -> None:
        done = gated.submit(*gated.waiting(), "--no-wait")
        assert done.code == 0
        assert done.out.strip() == done.id
        gated.driver()
        assert gated.known()[done.id][0] == "RUNNING"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_detaches_and_says_how_to_attach_again(self, gated: Work, number: signal.Signals) -> None:
        running = gated.start(*gated.waiting(), "--set", "source.limit=5")
        running.wait_until_it_says("waiting 3")
        running.process.send_signal(number)
        left = running.end()
        assert left.code == 130
        assert left.out == ""
        assert f"detached: {left.id} goes on" in left.err
        assert "optinfer submit job.yaml --set source.limit=5" in left.err
        assert gated.known()[left.id][0] == "RUNNING"

        again = gated.start(*gated.waiting(), "--set", "source.limit=5")
        again.wait_until_it_says("attached to")
        gated.open_gate()
        done = again.end()
        assert (done.code, done.id) == (0, left.id)
        assert done.waited == list(range(len(done.waited)))

    def test_stop_ends_a_job_for_whoever_follows_it_and_nobody_brings_it_back(self, gated: Work) -> None:
        running = gated.start(*gated.waiting(), "--retries", 3)
        running.wait_until_it_says("waiting 3")
        driver = gated.driver()
        stopped = gated.submit("--stop")
        assert stopped.code == 0, stopped.err
        followed = running.end()
        assert stopped.out.strip() == followed.id
        assert followed.code == 130
        assert "submitting it again" not in followed.err
        assert gated.known() == {followed.id: ("STOPPED", None)}
        wait_until(lambda: not psutil.pid_exists(driver), "the driver is collected")

        nothing = gated.submit("--stop", "--json")
        assert (nothing.code, json.loads(nothing.out)["status"]) == (0, "NONE")
        assert "nothing to stop" in nothing.err

    def test_stop_names_live_jobs_of_the_name_whose_file_has_changed(self, gated: Work) -> None:
        live = gated.submit(*gated.waiting(), "--no-wait")
        gated.driver()
        other = gated.submit("--stop", "--set", "source.limit=3")
        assert other.code == 0
        assert f"with another job file, model or code: {live.id}" in other.err
        assert gated.known()[live.id][0] == "RUNNING"


@pytest.mark.cluster
class TestFaults:
    def test_a_connection_that_is_cut_loses_and_doubles_no_line(self, gated: Work, head: Head) -> None:
        with between(head.dashboard) as proxy:
            running = gated.start(*gated.waiting(), "--address", f"http://127.0.0.1:{proxy.port}")
            running.wait_until_it_says("waiting 3")
            proxy.cut()
            running.wait_until_it_says("asking again")
            proxy.mend()
            running.wait_until_it_says("connected again")
            gated.open_gate()
            done = running.end()
        assert done.code == 0, done.err
        assert done.waited == list(range(len(done.waited)))
        assert len(done.waited) > 10
        assert done.out.startswith("10 of 10 rows scored")

    def test_a_dashboard_that_is_killed_and_started_again_changes_nothing(self, gated: Work, head: Head) -> None:
        running = gated.start(*gated.waiting())
        running.wait_until_it_says("waiting 3")
        process = head.dashboard_process()
        command, env = process.cmdline(), process.environ()
        process.kill()
        running.wait_until_it_says("asking again")
        with open(head.folder / "dashboard.log", "ab") as log:
            subprocess.Popen(command, env=env, cwd=head.folder, stdout=log, stderr=log, start_new_session=True)
        head.wait_until_it_answers()
        running.wait_until_it_says("connected again")
        gated.open_gate()
        done = running.end()
        assert done.code == 0, done.err
        assert done.waited == list(range(len(done.waited)))
        assert len(gated.known()) == 1

    def test_a_killed_driver_ends_1_and_says_by_what(self, gated: Work) -> None:
        running = gated.start(*gated.waiting())
        running.wait_until_it_says("waiting 3")
        os.kill(gated.driver(), signal.SIGKILL)
        done = running.end()
        assert done.code == 1
        assert "killed by SIGKILL" in done.err

    def test_a_killed_driver_is_resumed_where_retries_are_allowed(self, gated: Work) -> None:
        running = gated.start(*gated.waiting(), "--retries", 2, "--json")
        running.wait_until_it_says("waiting 3")
        os.kill(gated.driver(), signal.SIGKILL)
        running.wait_until_it_says("submitting it again")
        gated.open_gate()
        done = running.end()
        answered = json.loads(done.out)
        assert done.code == 0, done.err
        assert (answered["attempts"], answered["submission_id"][-2:]) == (2, "-2")
        assert [row["y"] for row in read_rows(gated.folder / "out")] == [2.0 * x for x in range(10)]

    def test_an_interrupt_from_outside_is_resumed_too(self, gated: Work) -> None:
        running = gated.start(*gated.waiting(), "--retries", 1)
        running.wait_until_it_says("waiting 3")
        os.kill(gated.driver(), signal.SIGTERM)
        running.wait_until_it_says("exit code 130")
        gated.open_gate()
        done = running.end()
        assert done.code == 0, done.err
        assert done.id.endswith("-2")

    def test_a_log_that_is_no_text_is_said_once_and_the_job_is_followed_by_its_state(self, gated: Work) -> None:
        gated.open_gate()
        done = gated.submit(*gated.waiting(), "--env", "UNREADABLE=1")
        assert done.code == 0, done.err
        assert done.err.count("cannot be read") == 1
        assert "Traceback" not in done.err


class TestReach:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"RAY_AUTH_TOKEN": None, "HOME": "/nowhere"}, "there is none here; set RAY_AUTH_TOKEN"),
            ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": "disabled"}, "wants a token"),
            ({"RAY_AUTH_TOKEN": "0" * 32}, "does not take this token"),
        ],
        ids=["mode without token", "no mode", "wrong token"],
    )
    def test_a_token_that_is_missing_or_wrong_is_refused_with_the_fix(
        self, work: Work, changes: dict[str, str | None], said: str
    ) -> None:
        done = work.submit(**changes)
        assert done.code == 2
        assert said in done.err
        assert "ray get-auth-token" in done.err
        assert "Traceback" not in done.err
        assert work.known() == {}

    def test_a_header_may_carry_the_token(self, work: Work, head: Head) -> None:
        bearer = f"Bearer {head.env['RAY_AUTH_TOKEN']}"
        without: dict[str, str | None] = {"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": "disabled"}
        assert work.submit("--stop", "--header", f"Authorization={bearer}", **without).code == 0
        named = work.submit("--stop", RAY_JOB_HEADERS=json.dumps({"Authorization": bearer}), **without)
        assert named.code == 0, named.err

    @pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "ray://127.0.0.1:{}"])
    def test_an_address_with_nobody_there_is_refused_at_once(self, work: Work, free_port: int, form: str) -> None:
        done = work.submit("--address", form.format(free_port))
        assert done.code == 1
        assert "Connection refused" in done.err
        assert "check --address" in done.err
        assert "http://HOST:8265" in done.err
        assert "Traceback" not in done.err

    def test_the_option_stands_above_the_variables_and_each_says_who_named_it(self, work: Work, free_port: int) -> None:
        nobody = f"http://127.0.0.1:{free_port}"
        assert work.submit("--stop", "--address", work.head.address, RAY_API_SERVER_ADDRESS=nobody).code == 0
        first = work.submit("--stop", RAY_API_SERVER_ADDRESS=nobody, RAY_ADDRESS=work.head.address)
        second = work.submit("--stop", RAY_API_SERVER_ADDRESS=None, RAY_ADDRESS=nobody)
        assert "check RAY_API_SERVER_ADDRESS" in first.err
        assert "check RAY_ADDRESS" in second.err

    def test_a_certificate_is_looked_at_unless_told_otherwise(self, work: Work, head: Head, tmp_path: Path) -> None:
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with between(head.dashboard, context) as proxy:
            address = f"https://127.0.0.1:{proxy.port}"
            refused = work.submit("--stop", "--address", address)
            trusted = work.submit("--stop", "--address", address, "--verify", certificate)
            blind = work.submit("--stop", "--address", address, "--verify", "false")
        assert refused.code == 1
        assert "--verify FILE" in refused.err
        assert (trusted.code, blind.code) == (0, 0), trusted.err
        assert "Warning" not in blind.err
