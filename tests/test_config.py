"""The job file: validated once, with file, line and the nearest valid word when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.job_file import load_job, parse_job
from tests.conftest import REPO, job_settings

Load = Callable[..., JobConfig]

JOB = """\
name: embed
source:
  path: table.parquet
  columns: {text: description}
model:
  path: models/minilm
  family: text-embedding
variant: onnx-fp32
sink:
  path: out
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str = JOB, *overrides: str) -> JobConfig:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return load_job(path, overrides)

    return load


def test_the_smallest_job_has_safe_defaults(load: Load) -> None:
    job = load()
    assert job.source.columns == {"text": "description"}
    assert (job.gate.metric, job.gate.threshold, job.gate.sample_rows) == ("auto", 0.99, 512)
    assert (job.sink.on_error, job.sink.error_threshold) == ("quarantine", 0.01)
    assert (job.placement.replicas, job.placement.threads_per_replica) == ("auto", "auto")


@pytest.mark.parametrize("path", sorted((REPO / "jobs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_shipped_jobs_are_valid(path: Path) -> None:
    load_job(path)


def test_a_job_is_frozen(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().name = "other"  # type: ignore[misc]


DATED = JOB.replace("path: out", "path: out/{date}")


def test_dates_are_put_into_the_paths_of_source_and_sink_and_into_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(DATED.replace("{text: description}", "{text: '{date}'}"), encoding="utf-8")
    job = load_job(path, ("source.path=in/{previous}", "tracking.experiment='{date}'"), date(2026, 11, 25))
    assert (job.source.path, job.sink.path) == ("in/2026-11-24", "out/2026-11-25")
    assert (job.tracking.experiment, job.source.columns) == ("{date}", {"text": "{date}"})


def test_a_job_without_a_logical_date_is_for_today(load: Load) -> None:
    before, job, after = date.today(), load(DATED), date.today()
    assert job.sink.path in (f"out/{before}", f"out/{after}")


def test_a_logical_date_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"neither source.path nor sink.path has \{date\}"):
        load_job(path, logical_date=date(2026, 11, 25))


def test_another_word_in_a_path_is_refused_at_its_line(load: Load) -> None:
    with pytest.raises(
        ConfigError,
        match=r"job.yaml:10: sink.path: .*did you mean '\{date\}'\? valid: \{date\}, \{model_version\}, \{previous\}",
    ):
        load(JOB.replace("path: out", "path: out/{dat}"))


def test_set_changes_and_adds_values(load: Load) -> None:
    job = load(JOB, "source.limit=1000", "gate.min=0.5", "sink.columns=[id, section]", "variant=torch-fp32")
    assert (job.source.limit, job.gate.min, job.sink.columns) == (1000, 0.5, ("id", "section"))
    assert job.variant == "torch-fp32"


@pytest.mark.parametrize("override", ["source.limit", "=3", "source.path.x=1", "gate.min=[1"])
def test_a_malformed_set_names_itself(load: Load, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(JOB, override)


def test_an_unknown_key_names_file_line_and_nearest(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"job\.yaml:11: unknown key 'sink\.error_treshold'; did you mean 'error_threshold'\?"
    ):
        load(JOB + "  error_treshold: 3\n")


def test_an_unknown_section_names_file_line_and_nearest(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml:11: unknown key 'gates'; did you mean 'gate'\?"):
        load(JOB + "gates: {min: 0.9}\n")


def test_a_missing_key_is_named(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml:\d+: missing key 'variant': add it to the job"):
        load(JOB.replace("variant: onnx-fp32\n", ""))


def test_every_mistake_is_reported_at_once(load: Load) -> None:
    with pytest.raises(ConfigError) as refused:
        load(JOB.replace("name: embed", "nam: embed"))
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.limit=0", "source.limit"),
        ("gate.sample_rows=3", "gate.sample_rows"),
        ("placement.replicas=many", "placement.replicas"),
        ("sink.on_error=ignore", "sink.on_error"),
        ("sink.error_threshold=-1", "sink.error_threshold"),
        ("placement={device: cpu, cpu_variant: auto}", "cpu_variant .* has no use with device: cpu"),
        ("name=two words", "name"),
        ("variant=' '", "optinfer variants"),
    ],
)
def test_a_wrong_value_names_its_key(load: Load, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(JOB, override)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping_says_what_a_job_is(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match="a job is a mapping with the keys name, source, model"):
        load(text)


def test_broken_yaml_says_where(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"not valid YAML(.|\n)*line \d"):
        load("name: embed\nsource: {path: [\n")


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the job file .*none\.yaml"):
        load_job(tmp_path / "none.yaml")


def test_a_job_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"job\.yaml is not UTF-8 text"):
        load_job(path)


def test_a_plain_mapping_is_a_job_too() -> None:
    with pytest.raises(ConfigError, match=r"^missing key 'name'"):
        parse_job({})


def test_an_error_in_an_override_points_at_the_override(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"^--set sink\.colums=\[id\]: unknown key 'sink\.colums'; did you mean 'columns'"
    ):
        load(JOB, "sink.colums=[id]")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (JOB + "name: other\n", r"the key 'name' is there twice; keep one\n.*line 11"),
        (JOB.replace("  path: out", "  path: out\n  path: elsewhere"), "the key 'path' is there twice"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        (JOB + f"gate: {{sample_rows: {'9' * 5000}}}\n", "Exceeds the limit"),
        ("# " + "x" * 1_000_000 + "\n" + JOB, "more than 1,000,000 characters; is it a job file"),
        (JOB + "gate: {min: .nan}\n", r"job.yaml:11: gate.min: .* finite number"),
        (JOB + "gate: {min: -.inf}\n", r"gate.min: .* finite number"),
        (JOB.replace("path: out", "path: ' '"), r"sink.path: .*give a path or a URL"),
        (JOB.replace("path: out", 'path: "a\\0b"'), r"sink.path: .*give a path or a URL"),
        (JOB.replace("path: table.parquet", "path: ''"), r"source.path: .*give a path or a URL"),
        (JOB + "? {a: b}\n: 1\n", "unhashable key"),
        (JOB + "---\na: 1\n", "expected a single document"),
        (JOB + "x: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
    ],
    ids=lambda value: value[-20:].strip().replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_file_that_says_two_things_or_none_is_refused(load: Load, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        load(text)


def test_a_byte_order_mark_and_merged_keys_are_read_as_yaml_has_them(load: Load) -> None:
    merged = "\ufeff" + JOB + "gate: {sample_rows: 16, <<: {min: 0.5, sample_rows: 32}}\n"
    assert (load(merged).gate.sample_rows, load(merged).gate.min) == (16, 0.5)


LETTERS = "abcdefghijklmnopqrst"
LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(LETTERS))
MERGES = "a: &a {k: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise(LETTERS))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS + JOB.replace("name: embed", "name: *t"), r"job\.yaml\", line \d+(.|\n)*"),
        (MERGES + JOB, "more than 50,000 values, aliases written out"),
        ("a: &a [*a]\n" + JOB, "an alias stands for a value that holds it"),
        (JOB + "".join(f"k{i}:\n" for i in range(60_000)), "more than 50,000 values"),
        (JOB + "#" + "x" * 50_000_000, "more than 1,000,000 characters"),
    ],
    ids=["laughs", "merges", "itself", "keys", "comment"],
)
def test_what_would_take_the_machine_is_refused_before_it_is_built(load: Load, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        load(text)
    assert len(str(error.value)) < 1_000


def test_of_many_mistakes_the_first_are_said_and_briefly(load: Load) -> None:
    with pytest.raises(ConfigError) as error:
        load(JOB + "".join(f"{'k' * 900}{i}: {{a: {'v' * 5_000}}}\n" for i in range(60)))
    *lines, last = str(error.value).splitlines()
    assert (len(lines), last) == (20, "and 40 more")
    assert max(map(len, lines)) < 500


def test_a_value_under_a_secret_s_name_is_not_shown(load: Load) -> None:
    with pytest.raises(ConfigError) as error:
        load(JOB + "tracking: {uri: {password: hunter}}\nnotify: {secret: whisper}\n", "tracking.token=shh-shh")
    assert not [word for word in ("hunter", "whisper", "shh-shh") if word in str(error.value)]


@pytest.mark.parametrize("override", ["a: [=1", "a[0]=1", "int=1", "str.x=1"])
def test_a_set_that_looks_like_no_key_is_an_unknown_key(load: Load, override: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load(JOB, override)


def test_a_prompt_is_given_by_text_or_by_name() -> None:
    raw = job_settings("in.parquet", "out", model__prompt="query: ", model__prompt_name="query")
    with pytest.raises(ConfigError, match="prompt and prompt_name are both set; keep one"):
        parse_job(raw)
    assert parse_job(job_settings("in.parquet", "out", model__prompt="")).model.prompt == ""


@pytest.mark.parametrize(("key", "value"), [("prompt_name", ""), ("truncate_dim", 0), ("max_length", 0)])
def test_settings_of_texts_that_mean_nothing_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}"):
        parse_job(job_settings("in.parquet", "out", **{f"model__{key}": value}))
