"""What a person gives that cannot be right: each of these has its message, its exit code, and no traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import RunCli, WriteTable, job_settings

PLAN = ("plan",)
SUBMIT, RENDER = ("submit", "--address"), ("submit", "--render", "--image", "i")
SCHEDULE = ("schedule", "--timezone", "UTC", "--target", "cron", "--out", "rendered", "--cron")


@dataclass(frozen=True)
class Bad:
    """One bad input: what is changed of a good job, or of the world around it, and what is said of it."""

    says: str
    sets: tuple[str, ...] = ()
    command: tuple[str, ...] = PLAN
    code: int = 2
    text: str | None = None
    world: Callable[[Path], object] | None = None
    environment: dict[str, str] = field(default_factory=dict)


def sets(*changes: str) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(keep: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Damage the table as it lies there."""
    return lambda folder: (folder / "t.parquet").write_bytes(keep((folder / "t.parquet").read_bytes()))


def table(**columns: Any) -> Callable[[Path], object]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "t.parquet")


def folder_with(*names: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "m").mkdir()
        for name in names:
            (folder / "m" / name).write_bytes(b"\x80\x04garbage")

    return make


def long_home(folder: Path) -> None:
    (folder / "file").touch()


CASES: dict[str, Bad] = {
    # the job file
    "no file": Bad("cannot read the job file", text="", world=lambda folder: (folder / "job.yaml").unlink()),
    "a folder": Bad("cannot read the job file", world=lambda f: ((f / "job.yaml").unlink(), (f / "job.yaml").mkdir())),
    "empty": Bad("a job is a mapping", text=""),
    "a list": Bad("a job is a mapping", text="- a"),
    "no text": Bad("is not UTF-8 text", world=write("job.yaml", b"\xff\xfe\x00\x81")),
    "a picture": Bad("is not UTF-8 text", world=write("job.yaml", b"\x89PNG\r\n\x1a\n\0\0")),
    "not yaml": Bad("is not valid YAML", text="a: [1"),
    "tabs": Bad("is not valid YAML", text="a:\n\tb: 1"),
    "twice": Bad("the key 'name' is there twice", text="name: a\nname: b"),
    "deep": Bad("nested too deeply", text="a: " + "[" * 500),
    "laughs": Bad("aliases written out", text="a: &a [x,x]\n" + "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9))),
    "itself": Bad("stands for a value that holds it", text="a: &a [*a]"),
    "large": Bad("more than 1,000,000 characters", text="#" * 1_000_001),
    "code": Bad("could not determine a constructor", text="a: !!python/object/apply:os.system [id]"),
    "control": Bad("is not valid YAML", text="a: \x07"),
    # keys and values
    "unknown key": Bad("unknown key 'sink.pth'; did you mean 'path'?", sets("sink.pth=x")),
    "unknown section": Bad("unknown key 'gates'; did you mean 'gate'?", sets("gates=1")),
    "a value as a section": Bad("is a value, not a section", sets("name.x=1")),
    "no equals": Bad("write it as a.b=value", sets("name")),
    "broken value": Bad("the value is not valid YAML", sets("name=[1")),
    "null name": Bad("name: Input should be a valid string", sets("name=null")),
    "bad name": Bad("name: String should match pattern", sets("name=../x")),
    "zero limit": Bad("source.limit", sets("source.limit=0")),
    "no number": Bad("source.limit", sets("source.limit=many")),
    "nan gate": Bad("gate.min: Input should be a finite number", sets("gate.min=.nan")),
    "two limits": Bad("min and max_drop are both set", sets("gate.max_drop=0.1")),
    "two counts": Bad("keep one of the two", sets("placement.replicas=2", "placement.max_replicas=3")),
    "low above high": Bad("is above max_replicas", sets("placement.min_replicas=3", "placement.max_replicas=2")),
    "threshold": Bad("sink.error_threshold", sets("sink.error_threshold=-1")),
    "on_error": Bad("sink.on_error: Input should be 'quarantine', 'column' or 'raise'", sets("sink.on_error=ignore")),
    "webhook": Bad("give an http:// or https:// URL", sets("notify.url=ftp://x")),
    "idle secret": Bad("secret_env signs what is posted to url", sets("notify.secret_env=X")),
    "idle fallback": Bad("has no use with variant: auto", sets("variant=auto", "gate.fallback=torch-fp32")),
    "empty variant": Bad("name a variant", sets("variant=' '")),
    "unknown variant": Bad("did you mean 'torch-fp32'?", sets("variant=torch-fp23")),
    "unknown family": Bad("did you mean 'text-embedding'?", sets("model.family=text-embeding")),
    "unknown metric": Bad("gate.metric", sets("gate.metric=nonsense")),
    "unknown backend": Bad("backend", sets("variant=x", "variants={x: {steps: [], backend: onxruntime}}")),
    "unknown technique": Bad("technique", sets("variant=x", "variants={x: {steps: [prun], backend: onnxruntime}}")),
    # paths
    "blank source": Bad("give a path or a URL", sets("source.path=' '")),
    "zero byte": Bad("give a path or a URL", sets('source.path="a\\0b"')),
    "no such source": Bad("does not exist; check source.path", sets("source.path=/nowhere.parquet")),
    "no match": Bad("no file matches", sets("source.path=/nowhere/*.parquet")),
    "unknown protocol": Bad("cannot open nowhere://x", sets("source.path=nowhere://x/t.parquet")),
    "no bucket": Bad("names no bucket or host", sets("source.path=s3://")),
    "unknown date": Bad("did you mean '{date}'?", sets("sink.path=out/{dat}")),
    "sink is source": Bad("is source.path itself", sets("sink.path=t.parquet")),
    "sink in memory": Bad("the memory of one process", sets("sink.path=memory://out")),
    "source format": Bad("no sources plugin 'csv'", sets("source.format=csv")),
    "sink format": Bad("no sinks plugin 'csv'", sets("sink.format=csv")),
    "no version": Bad("version", sets("source.version=3")),
    # data
    "no parquet": Bad("is not a readable Parquet file", world=write("t.parquet", b"PAR1 or not"), code=1),
    "empty file": Bad("t.parquet", world=write("t.parquet", b""), code=1),
    "half a file": Bad("is not a readable Parquet file", world=cut(lambda data: data[: len(data) // 2]), code=1),
    "broken footer": Bad("is not a readable Parquet file", world=cut(lambda data: data[:-40] + b"\xff" * 32 + data[-8:]), code=1),
    "no column": Bad("did you mean 'text'?", sets("source.columns={text: tekst}")),
    "numbers for text": Bad("text", world=table(id=["a"], text=[1])),
    "unmapped role": Bad("source.columns", sets("source.columns={txt: text}")),
    "no carried column": Bad("did you mean 'id'?", sets("sink.columns=[ids]")),
    # model
    "no model": Bad("does not exist", sets("model.path=/nowhere")),
    "empty model": Bad("model.path", sets("model.path=m"), world=folder_with()),
    "a pickle": Bad("allow_pickle", sets("model.path=m"), world=folder_with("config.json", "pytorch_model.bin")),
    "no onnx": Bad("m.onnx", sets("model.path=m.onnx", "model.family=tensor", "variant=onnx-fp32"), world=write("m.onnx", b"\x08garbage")),
    "no safetensors": Bad("m.safetensors", sets("model.path=m.safetensors"), world=write("m.safetensors", b"\xff" * 64)),
    "no package": Bad("model.path", sets("model.path=package:no_such_package/model")),
    # environment and command line
    "home is a file": Bad("cannot", world=long_home, environment={"OPTINFER_HOME": "file/home"}, command=("run",), code=1),
    "no option": Bad("No such option", ("--sett", "a=b")),
    "no command": Bad("No such command", command=("runn",)),
    "no day": Bad("is no day", ("--logical-date", "yesterday")),
    "idle day": Bad("--logical-date changes nothing", ("--logical-date", "2026-11-25")),
    "no retries": Bad("--retries", ("--retries", "-1"), command=(*SUBMIT, "http://127.0.0.1:9")),
    "no image": Bad("--render needs --image", command=("submit", "--render")),
    "no variable": Bad("there is no such variable here", ("--env", "NO_SUCH_VARIABLE"), command=RENDER),
    "no header": Bad("--header: write it as NAME=VALUE", ("--header", "x"), command=(*SUBMIT, "http://127.0.0.1:9")),
    "no certificate": Bad("--verify /nowhere does not exist", ("--verify", "/nowhere"), command=(*SUBMIT, "http://127.0.0.1:9")),
    "a dashboard as a cluster": Bad("that is where jobs are submitted", ("--address", "http://127.0.0.1:9"), command=("run",), code=1),
    "no address": Bad("there is no HOST:PORT in it", ("--address", "nonsense"), command=("run",), code=1),
    # promote, verify, explain
    "one alias": Bad("alias and previous are the same", sets("promote.alias=previous")),
    "no alias": Bad("promote.alias", sets("promote.alias='a b'")),
    "two rules": Bad("keep one of the two", sets("promote.when.difference={not_worse_by: 0.1, better_by: 0}")),
    "unknown rule": Bad("did you mean 'difference'?", sets("promote.when.diference={better_by: 0}")),
    "free of charge": Bad("promote.when.cost.at_most", sets("promote.when.cost.at_most=0")),
    "no version to name": Bad("no version of a registered model", sets("sink.path=out/{model_version}")),
    "version in the source": Bad("{model_version} in a path is unknown", sets("source.path='{model_version}'")),
    "nothing to promote": Bad("name one of --challenger", command=("promote",)),
    "two to promote": Bad("name one of --challenger", ("--rollback", "--challenger", "models:/a@b"), command=("promote",)),
    "nothing to compare": Bad("--by and --all", ("--rollback", "--by", "id"), command=("promote",)),
    "no registered model": Bad("is no registered model", command=("promote", "--rollback")),
    "no comparison": Bad("holds no comparison", command=("promote", "--compared", "nowhere.json")),
    "no rule": Bad("promote.when names no rule", sets("model.path=models:/a@b"), command=("promote", "--challenger", "models:/a@c")),
    "verify nothing": Bad("is not finished", command=("verify",)),
    "verify no row": Bad("--rows", ("--rows", "0"), command=("verify",)),
    "explain nothing": Bad("is not finished", command=("explain", "--where", "id=1")),
    "no equals to explain": Bad("write it as COLUMN=VALUE", command=("explain", "--where", "id")),
    "two values in one": Bad("no row has two values", command=("explain", "--where", "id=1", "--where", "id=2")),
    "no cron": Bad("cron", command=(*SCHEDULE, "61 * * * *")),
    "every night the same": Bad("is the same every night", command=(*SCHEDULE, "0 2 * * *")),
    "no zone": Bad("Mars", ("--timezone", "Mars/Base"), command=(*SCHEDULE, "0 2 * * *")),
}  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_refused_with_its_reason_and_its_code(
    tmp_path: Path, run_cli: RunCli, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import yaml

    bad = CASES[name]
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.parquet", rows=8)
    settings = job_settings("t.parquet", "out", variant="torch-fp32", gate={"min": 0.9})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings) if bad.text is None else bad.text, encoding="utf-8")
    if bad.world:
        bad.world(tmp_path)
    for variable, value in bad.environment.items():
        monkeypatch.setenv(variable, os.path.join(tmp_path, value))
    code, out, err = run_cli(*bad.command, "job.yaml", *bad.sets)
    assert bad.says in err, err
    assert code == bad.code, err
    assert out == ""
    assert "Traceback" not in err
    assert "please report it" not in err
    assert len(err) < 4_000
