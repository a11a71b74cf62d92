"""What a schedule refuses before it writes, and what it never overwrites."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from optinfer.deployment.targets import TARGETS
from optinfer.errors import ConfigError
from tests.conftest import RunCli, everything_under
from tests.deployment.conftest import JOB, Render


@pytest.mark.parametrize("target", TARGETS.names())
class TestAnyTarget:
    def test_the_same_again_changes_nothing(self, render: Render, out: Path, target: str) -> None:
        first = render(target)
        before = {file: (out / file).stat().st_size for file in everything_under(out)}
        assert sorted(first.files) == [str(out / file) for file in before]
        assert render(target) == first
        assert {file: (out / file).stat().st_size for file in everything_under(out)} == before

    def test_a_file_that_somebody_changed_is_kept_until_force(self, render: Render, out: Path, target: str) -> None:
        changed = Path(render(target).files[0])
        changed.write_text("mine")
        with pytest.raises(ConfigError, match=rf"{re.escape(str(changed))} differs .* --force overwrites"):
            render(target)
        assert changed.read_text() == "mine"
        render(target, force=True)
        assert changed.read_text() != "mine"

    def test_nothing_is_written_where_one_file_is_refused(self, render: Render, out: Path, target: str) -> None:
        names = [Path(file).name for file in render(target).files]
        for name in names:
            (out / name).unlink()
        (out / names[-1]).write_text("mine")
        with pytest.raises(ConfigError, match="differs"):
            render(target)
        assert everything_under(out) == [names[-1]]

    def test_a_sink_that_is_the_same_every_night_is_refused(
        self, render: Render, job: Path, out: Path, target: str
    ) -> None:
        job.write_text(JOB.replace("out/{date}", "out"))
        with pytest.raises(
            ConfigError, match=r'is the same every night.*put \{date\} into it, as in "s3://bucket/out/\{date\}"'
        ):
            render(target)
        assert not out.exists()

    def test_a_name_that_is_no_label_is_refused(self, render: Render, target: str) -> None:
        for name in ("1night", "night-", "Night", "my.night", "my_night", "-"):
            with pytest.raises(ConfigError, match="is no DNS-1035 label"):
                render(target, name=name)

    def test_a_name_is_as_long_as_the_target_takes(self, render: Render, target: str) -> None:
        longest = TARGETS.get(target).longest_name
        assert render(target, name="a" * longest).name == "a" * longest
        with pytest.raises(ConfigError, match=rf"has {longest + 1} characters, .* takes {longest} at most.*--name"):
            render(target, name="a" * (longest + 1))

    def test_an_option_that_means_nothing_to_it_is_refused(self, render: Render, target: str) -> None:
        values = {
            "address": "http://ray:8265",
            "retries": 1,
            "image": "i",
            "namespace": "n",
            "workers": 3,
            "secret": "s",
        }
        for name in set(values) - set(TARGETS.get(target).takes):
            with pytest.raises(ConfigError, match=rf"--{name} has no use with --target {target}; .* choose one of \w+"):
                render(target, **{name: values[name]})

    def test_an_option_that_it_takes_changes_what_is_rendered(self, render: Render, out: Path, target: str) -> None:
        values = {
            "address": "http://ray:8265",
            "retries": 7,
            "image": "i",
            "namespace": "n",
            "workers": 3,
            "secret": "s",
        }
        render(target)
        plain = {file: (out / file).read_text() for file in everything_under(out)}
        for name in TARGETS.get(target).takes:
            render(target, force=True, **{name: values[name]})
            assert {file: (out / file).read_text() for file in everything_under(out)} != plain, name
            render(target, force=True)


@pytest.mark.parametrize("target", [name for name in TARGETS.names() if TARGETS.get(name).in_pods])
class TestPods:
    @pytest.mark.parametrize("path", ["in/{previous}", "./in/{previous}", "~/in/{previous}"])
    def test_a_path_of_this_machine_is_refused(self, render: Render, job: Path, target: str, path: str) -> None:
        job.write_text(JOB.replace("s3://bucket/in/{previous}/", path))
        with pytest.raises(ConfigError, match=r"source.path .* is relative to a folder of this machine"):
            render(target)

    def test_an_image_is_needed(self, render: Render, target: str) -> None:
        with pytest.raises(ConfigError, match=f"--target {target} needs --image"):
            render(target, image=None)


def test_workers_of_somebody_elses_cluster_are_not_ours(render: Render) -> None:
    with pytest.raises(ConfigError, match="--workers has no use with --address"):
        render("k8s", address="http://ray:8265", workers=2)


def test_a_targets_name_that_is_none_is_refused_with_the_nearest(render: Render) -> None:
    with pytest.raises(ConfigError, match=r"no targets plugin 'crom'; did you mean 'cron'\?"):
        render("crom")


def test_a_jobs_mistake_is_named_with_its_line(render: Render, job: Path, out: Path) -> None:
    job.write_text(JOB.replace("{date}", "{dta}"))
    with pytest.raises(ConfigError, match=r"job.yaml:5: sink.path: .*did you mean '\{date\}'"):
        render("cron")
    assert not out.exists()


def test_the_name_is_the_jobs_as_a_label(render: Render, job: Path) -> None:
    job.write_text(JOB.replace("name: embed", "name: My_Nightly.Embed-2"))
    assert render("systemd").name == "optinfer-my-nightly-embed-2"


def test_a_folder_that_takes_no_files_is_named(render: Render, out: Path) -> None:
    out.write_text("a file")
    with pytest.raises(ConfigError, match="choose another --out"):
        render("cron")


def test_set_goes_into_every_night(render: Render, out: Path) -> None:
    render("cron", overrides=("source.limit=10", "sink.path=s3://b/a night/{date}"))
    script = (out / "optinfer-embed.sh").read_text()
    assert "--set source.limit=10 --set 'sink.path=s3://b/a night/{date}' --logical-date" in script


def test_the_next_nights_are_told_and_what_to_do(render: Render) -> None:
    rendered = render("systemd")
    assert rendered.next_ticks == ("2026-11-27 03:30+01:00", "2026-11-28 03:30+01:00", "2026-11-29 03:30+01:00")
    assert "systemctl --user enable --now optinfer-embed.timer" in rendered.then
    assert rendered.warnings == ()


def test_what_a_person_should_know_is_said(render: Render) -> None:
    assert "cronie" in " ".join(render("cron").warnings)
    assert "alpha" in " ".join(render("raycronjob").warnings)
    warned = " ".join(render("airflow", cron="*/30 2 * * *").warnings)
    assert "2027-03-28 02:00 does not exist" in warned
    assert "several ticks a day are for the same {date}" in warned


def test_the_command_line_prints_files_and_takes_json(run_cli: RunCli, job: Path, out: Path) -> None:
    pytest.importorskip("croniter", reason="the extra `schedule` is not installed")
    arguments = ("schedule", job, "--cron", "30 3 * * *", "--timezone", "Europe/Paris", "--target", "k8s", "--out", out)
    code, stdout, _ = run_cli(*arguments, "--image", "optinfer:1", "--json")
    assert code == 0
    assert [Path(file).name for file in json.loads(stdout)["files"]] == [
        "configmap.yaml",
        "cronjob.yaml",
        "raycluster.yaml",
    ]
    code, stdout, _ = run_cli(*arguments, "--image", "optinfer:1")
    assert (code, f"kubectl apply -f {out}" in stdout) == (0, True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--cron", "0 2 * *", "write it as"),
        ("--timezone", "Paris", "did you mean 'Europe/Paris'?"),
        ("--target", "kubernetes", "valid: airflow, cron"),
    ],
)
def test_the_command_line_refuses_with_2_and_the_fix(
    run_cli: RunCli, job: Path, out: Path, option: str, value: str, said: str
) -> None:
    pytest.importorskip("croniter", reason="the extra `schedule` is not installed")
    given = {"--cron": "30 3 * * *", "--timezone": "Europe/Paris", "--target": "cron", "--out": str(out), option: value}
    code, _, err = run_cli("schedule", job, *(word for pair in given.items() for word in pair))
    assert (code, said in err, out.exists()) == (2, True, False)
