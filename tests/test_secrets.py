"""Nothing secret leaves the process: ways to write one × keys × commands (378 places), and every channel of a run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optinfer import secrets
from optinfer.cli.printing import Guarded
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.secrets import clean, is_secret_name, learn, redact, scrubbed
from tests.conftest import RunCli, WriteTable, job_settings
from tests.tracking.endpoint import endpoint

WORD = "wJalr/XUtn+FEMI9zK7MDENG"
# How a person writes one into a job; the port is one where nobody listens.
WRITTEN: dict[str, str] = {
    "userinfo": "s3://AKIAIOSFODNN7EXAMPL9:{coded}@bucket/x.parquet",
    "raw slashes": "s3://AKIAIOSFODNN7EXAMPL9:{word}@bucket/x.parquet",
    "chained": "simplecache::s3://AKIAIOSFODNN7EXAMPL9:{word}@bucket/x.parquet",
    "user alone": "http://{coded}@127.0.0.1:9/x.parquet",
    "query": "http://127.0.0.1:9/x.parquet?X-Amz-Signature={coded}&x=1",
    "named": "my_password={word}",
}
KEYS = (
    "source.path", "source.format", "source.columns.text", "model.path", "model.secret", "gate.min", "sink.path",
    "tracking.uri", "notify.url",
)  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run",),
    "plan": ("plan", "--json"),
    "optimize": ("optimize", "--variants", "none", "--json"),
    "status": ("status", "--json"),
    "history": ("history",),
    "render": ("submit", "--render", "--image", "i"),
    "schedule": ("schedule", "--cron", "0 2 * * *", "--timezone", "UTC", "--target", "k8s", "--image", "i"),
}


def forms(word: str = WORD) -> set[str]:
    return {word, quote(word, safe=""), quote(word), "AKIAIOSFODNN7EXAMPL9", json.dumps(word)[1:-1]}


def shown(*texts: str) -> set[str]:
    """Return what of the secret stands in what was said."""
    return {form for form in forms() for text in texts if form in text}


def left(*places: Path) -> str:
    """Return all that was left on disk, as text."""
    files = sorted(path for place in places for path in place.rglob("*") if path.is_file())
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def with_value(raw: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    *sections, leaf = key.split(".")
    inner = raw
    for name in sections:
        inner = inner.setdefault(name, {})
    inner[leaf] = value
    return raw


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_no_command_shows_a_secret_of_any_key(
    tmp_path: Path, own_home: Path, run_cli: RunCli, command: str, written: str, write_table: WriteTable
) -> None:
    table, said, codes = write_table(tmp_path / "in" / "t.parquet", rows=8), [], set()
    value = WRITTEN[written].format(word=WORD, coded=quote(WORD, safe=""))
    verb, *options = COMMANDS[command]
    for number, (key, typed) in enumerate(zip(KEYS, cycle((False, True)), strict=False)):
        raw, changes = job_settings(table, tmp_path / "out", variant="none"), []
        if typed and command not in ("status", "history"):
            changes = ["--set", f"{key}={value}"]
        else:
            raw = with_value(raw, key, value)
        job = tmp_path / f"{number}.yaml"
        job.write_text(yaml.safe_dump(raw))
        more = ["--out", str(tmp_path / "rendered")] if verb == "schedule" else []
        code, *texts = run_cli(verb, *options, job, *changes, *more)
        said += texts
        codes.add(code)
        job.unlink()
    assert not shown(*said, left(tmp_path / "home"), left(tmp_path / "rendered"))
    assert not any("Traceback" in text for text in said)
    assert codes <= {0, 1, 2, 4}


# What a job's own class does with a token of its environment, in every way that a library has.
_TALKATIVE = """
import logging, os, sys, threading, warnings
from optinfer_custom import Lengths

TOKEN = os.environ["HF_TOKEN"]

class Talkative(Lengths):
    def preprocess(self, table):
        for text in table.column("text").to_pylist():
            if text == "bad":
                raise ValueError(f"no access with {TOKEN}")
        return super().preprocess(table)
"""


@pytest.mark.usefixtures("trials_here")
def test_no_channel_of_a_run_has_what_a_library_quotes(
    tmp_path: Path, own_home: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, write_table: WriteTable
) -> None:
    """A row's reason, the records that count it, journal, MLflow, webhook, lineage, and the failure of a second run."""
    (tmp_path / "talkative.py").write_text(_TALKATIVE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_TOKEN", WORD)
    texts = ["bad" if row == 3 else f"text {row}" for row in range(40)]
    table = write_table(tmp_path / "t.parquet", columns={"id": [str(row) for row in range(40)], "text": texts})
    with endpoint() as hook, endpoint(path="") as lineage:
        monkeypatch.setenv("OPENLINEAGE_URL", lineage.url)
        raw = job_settings(
            table, tmp_path / "out", variant="torch-fp32", notify={"url": hook.url},
            model={"path": str(tmp_path / "model"), "family": "custom", "class": "talkative:Talkative"},
            sink__columns=["id"], sink__error_threshold=5,
        )  # fmt: skip
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
        executor = InProcess([Node(cpus=2)])
        code, out, err = run_cli("run", tmp_path / "job.yaml", "--json", executor=executor)
        again, *more = run_cli(
            "run", tmp_path / "job.yaml", "--set", f"sink.path={tmp_path / 'second'}", "--set", "sink.on_error=raise",
            executor=executor,
        )  # fmt: skip
    assert (code, again) == (0, 1), err + "".join(more)
    assert json.loads(out)["rows_quarantined"] == 1
    posted = b"".join(body for served in (hook, lineage) for _, body in served.arrived).decode()
    assert "no access with ..." in posted
    assert "no access with ..." in (tmp_path / "out" / "_manifest.json").read_text()
    assert "no access with ..." in left(own_home)
    (quarantined,) = (tmp_path / "out").rglob("*quarantine*/*.parquet")
    assert "no access with ..." in str(pq.read_table(quarantined)["_reason"].to_pylist())
    assert not shown(out, err, *more, posted, left(own_home, tmp_path / "out", tmp_path / "second"))


_LOUD = """
import logging, os, sys, threading, warnings
from optinfer import __main__

def loud():
    word = os.environ["HF_TOKEN"]
    print("print", word)
    print("print", word, file=sys.stderr)
    logging.getLogger("library").warning("log %s", word)
    warnings.warn(f"warning {word}")
    thread = threading.Thread(target=lambda: 1 / 0 if not word else int(f"thread {word}"))
    thread.start()
    thread.join()
    raise SystemExit(3)


__main__.program(loud)
"""


def test_the_program_s_streams_let_nothing_out_whoever_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOUD], capture_output=True, text=True, env={**os.environ, "HF_TOKEN": WORD}
    )
    assert done.returncode == 3
    for said in ("print ...", "log ...", "warning ...", "'thread ...'"):
        assert said in done.stdout + done.stderr, done.stderr
    assert not shown(done.stdout, done.stderr)


def test_a_stream_that_is_guarded_is_one_as_any_other() -> None:
    raw = io.BytesIO()
    before = io.TextIOWrapper(raw, encoding="utf-8", line_buffering=True)
    stream = Guarded.of(before)
    print("Grüße, http://me:hunter2@host/a?b=c", file=stream)
    assert raw.getvalue().decode() == "Grüße, http://...@host/a?...\n"


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_tokens=4096 and 31.5 tokens_per_second", '{"tokenizer": "fast", "tokens": 12}',
        "automountServiceAccountToken: false", "AWS_REGION=eu-west-1", "notify.secret_env names HOOK_SECRET",
        "set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH=FILE or RAY_AUTH_MODE=token", "password: Input should be a text",
        "http://127.0.0.1:8265/x@y and s3://bucket/a=1/part-0.parquet", "secretKeyRef: {name: s3}",
    ],
)  # fmt: skip
def test_words_that_only_look_like_secrets_stay(text: str) -> None:
    assert scrubbed(text) == text


@given(st.text(), st.sampled_from([*WRITTEN.values(), '{{"api_key": "{word}"}}', "Authorization: Bearer {coded}"]))
def test_text_may_pass_twice_and_json_stays_json(around: str, written: str) -> None:
    text = json.dumps({"message": f"{around} {written.format(word=WORD, coded=quote(WORD, safe=''))} {around}"})
    once = scrubbed(json.dumps(clean(json.loads(text))))
    assert scrubbed(once) == once
    assert isinstance(json.loads(once)["message"], str)


# Of what texts with secrets are made, in letters that `re` takes for others, too: Kelvin, long s, dotless i.
_PIECES = (
    *("AWS_", "TOKEN", "password", "passwd", "Secret", "credential", "api", "access", "private", "_", "-", "key", "id"),
    *("To\N{KELVIN SIGN}EN", "pa\N{LATIN SMALL LETTER LONG S}sword", "CREDENT\N{LATIN SMALL LETTER DOTLESS I}AL"),
    *("=", ": ", '"', "'", " ", "PATH", "A1b2" * 6),
)
_BEGINNINGS = (
    *("AKIA", "ASIA", "whsec_", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "eyJABCDEFGH.A."),
    *("Bearer ", "bearer ", "Basic ", "basic ", "AWS_X=", "aws_y="),
)


@given(
    st.lists(st.sampled_from(_PIECES), max_size=12).map("".join)
    | st.sampled_from(_BEGINNINGS).map(lambda begins: f"{begins}{'A1B2' * 6}")
)
def test_no_pattern_is_spared_a_text_that_it_finds_something_in(text: str) -> None:
    said, found, named = scrubbed(text), set(secrets._found(text)), is_secret_name(text)
    with mock.patch.object(secrets, "_IN_NAMES", ("",)), mock.patch.object(secrets, "_IN_SHAPES", ("",)):
        assert (said, found, named) == (scrubbed(text), set(secrets._found(text)), is_secret_name(text))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=12, max_size=40))
def test_a_password_that_was_met_is_found_however_it_is_quoted(password: str) -> None:
    url = f"https://somebody:{quote(password, safe='')}@host/table"
    with mock.patch.object(secrets, "_met", set()):
        learn(url)
        for quoted in (password, quote(password, safe=""), json.dumps(password)[1:-1]):
            assert quoted not in scrubbed(f"401 for <{quoted}>")
    assert redact(url) == "https://host/table"


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "hf-token", "DB_PASSWORD", "client_secret"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["AWS_REGION", "max_batch_tokens", "tokenizer", "secret_env", "RAY_AUTH_TOKEN_PATH", "key"]
)
def test_names_that_are_none(name: str) -> None:
    assert not is_secret_name(name)
