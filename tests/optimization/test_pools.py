"""A second variant for CPUs is proved as the variant of the same job on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from optinfer.commands.resolved import resolve
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, GateError, UnavailableError
from optinfer.optimization.asked import wanted
from optinfer.optimization.pools import Pools, further, known_pools, pools
from optinfer.optimization.proving import Here
from optinfer.optimization.selection import candidates
from optinfer.optimization.variants import VARIANTS, Step, Variant, catalog
from optinfer.optimization.workbench import Workbench
from tests.conftest import MakeJob, WriteTable

pytestmark = pytest.mark.usefixtures("fake_variant")
Job = Callable[..., JobConfig]


@pytest.fixture
def job(tmp_path: Path, make_job: MakeJob, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a function that makes jobs of the variant `stand-in`, on a GPU that is not there."""
    (tmp_path / "calls").mkdir()
    steps = (Step("fault", {"folder": str(tmp_path)}),)
    stand_in = Variant(name="stand-in", steps=steps, backend="faulty", device="cuda", about="")
    monkeypatch.setitem(VARIANTS, "stand-in", stand_in)
    for name in [n for n in VARIANTS if n not in ("fake", "stand-in", "torch-fp32")]:
        monkeypatch.delitem(VARIANTS, name)
    table = write_table(tmp_path / "t.parquet", rows=48)

    def make(second: str | None, **changes: Any) -> JobConfig:
        placement = {"cpu_variant": second, **changes.pop("placement", {})}
        return make_job(table, tmp_path / "out", **{"variant": "stand-in", "placement": placement, **changes})

    return make


def bench_of(config: JobConfig) -> Workbench:
    planned = resolve(config)
    return planned.bench(lambda line: None)


@pytest.mark.parametrize(
    ("second", "changes", "error", "message"),
    [
        ("fake", {"variant": "torch-fp32"}, ConfigError, r"torch-fp32 runs on the CPUs of all nodes; remove placement"),
        ("stand-in", {}, ConfigError, r"cpu_variant stand-in does not run on CPUs; name a variant that does, or auto"),
        ("fak", {}, ConfigError, r"no variant 'fak'; did you mean 'fake'"),
        ("gone", {"variants": {"gone": {"backend": "absent"}}}, UnavailableError, r"gone is not available here: .*no_such"),
    ],
    ids=["no use", "no variant for CPUs", "no variant", "not here"],
)  # fmt: skip
def test_a_second_variant_that_cannot_work_is_refused_from_the_job_alone(
    job: Job, second: str, changes: Any, error: type[Exception], message: str
) -> None:
    config = job(second, **changes)
    with pytest.raises(error, match=message):
        wanted(config, catalog(config))


def test_the_second_variant_is_part_of_what_identifies_a_job(job: Job) -> None:
    fields = [resolve(job(second)).fields for second in (None, "fake", "torch-fp32", "auto")]
    assert "cpu_variant" not in fields[0]
    assert [next(iter(cast(dict[str, Any], f["cpu_variant"]))) for f in fields[1:]] == ["fake", "torch-fp32", "auto"]
    assert len({str(f.get("cpu_variant")) for f in fields}) == 4


def test_auto_is_the_fastest_on_cpus_that_passes_though_the_job_is_for_gpus(job: Job) -> None:
    config = job("auto", placement={"device": "cuda"}, gate={"min": 0.9, "sample_rows": 8})
    bench = bench_of(config)
    main = next(candidates(bench_of(job(None))))
    (second,) = further(Here(bench), main)
    assert second.variant.name == "torch-fp32"
    assert "below gate.min" in dict(second.not_chosen)["fake"]
    assert dict(second.not_chosen)["stand-in"] == "runs on cuda, placement.device is cpu"
    assert further(Here(bench), main) == (second,), "as the cache tells"


def test_a_named_one_passes_the_gate_or_nothing_scores(job: Job) -> None:
    main = next(candidates(bench_of(job(None))))
    refused = r"(?s)placement\.cpu_variant: .*fake: cosine .* below gate\.min 0\.9.*name another one there"
    with pytest.raises(GateError, match=refused):
        further(Here(bench_of(job("fake", gate={"min": 0.9, "sample_rows": 8}))), main)


def test_a_resume_takes_the_one_that_its_output_has(job: Job) -> None:
    bench = bench_of(job("auto"))
    for name in ("fake", "torch-fp32"):
        _, second = next(pools(Here(bench), only=("stand-in", name)))
        assert second.variant.name == name


def test_there_is_none_beside_a_variant_on_cpus(job: Job) -> None:
    bench = bench_of(job("fake", variant="auto"))
    assert len(next(pools(Here(bench), only=("torch-fp32",)))) == 1


def test_what_runs_on_both_is_said_of_both(job: Job) -> None:
    from dataclasses import replace

    bench = bench_of(job("fake"))
    both = next(pools(Here(bench)))
    known = known_pools(bench)
    assert known is not None
    assert [one.variant.name for one in known] == ["stand-in", "fake"], "as the cache tells"
    assert both.first.identity.beside is None
    assert both.identity.beside is not None
    assert (both.identity.variant, both.identity.beside.variant) == ("stand-in", "fake")
    assert (both.params["variant"], both.params["beside.variant"]) == ("stand-in", "fake")
    assert [one.variant.name for one in both] == ["stand-in", "fake"]
    moved = replace(both.each[1], certificate=replace(both.first.certificate, batch_invariant=False))
    assert Pools((both.first, moved)).warnings[0].startswith("fake is not batch-invariant")
