"""What each target renders is what its scheduler takes, and each night that it starts is the right one."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from optinfer.deployment.targets import TARGETS
from tests.conftest import REPO, WriteTable
from tests.deployment import kuberay
from tests.deployment.conftest import JOB, Render

KUBERAY = pytest.mark.skipif(not kuberay.CRDS.is_dir(), reason="KubeRay's CRDs are not beside the repository")
PODS = ("k8s", "rayjob", "raycronjob")


def documents(folder: Path) -> list[dict[str, Any]]:
    texts = [file.read_text() for file in sorted(folder.glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def of_kind(folder: Path, kind: str) -> dict[str, Any]:
    return next(document for document in documents(folder) if document["kind"] == kind)


def executed(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)


VARIATIONS: list[dict[str, Any]] = [
    {},
    {"namespace": "batch", "secret": "s3-credentials"},
    {"workers": 9},
    {"overrides": ("placement.max_replicas=4",)},
    {"overrides": ("placement.device=cuda",)},
    {"name": "longest"},
]


@pytest.mark.parametrize("target", PODS)
@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
class TestManifests:
    def named(self, target: str, variation: dict[str, Any]) -> dict[str, Any]:
        longest = TARGETS.get(target).longest_name
        return {**variation, "name": "a" * longest} if variation.get("name") else variation

    def test_kubernetes_takes_its_own_kinds(
        self, render: Render, out: Path, target: str, variation: dict[str, Any]
    ) -> None:
        kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        render(target, **self.named(target, variation))
        core = [document for document in documents(out) if not document["apiVersion"].startswith("ray.io/")]
        assert core
        for document in core:
            kubernetes.validate(document, kubernetes.latest_version(), strict=True)

    @KUBERAY
    def test_kuberay_takes_its_kinds(self, render: Render, out: Path, target: str, variation: dict[str, Any]) -> None:
        render(target, **self.named(target, variation))
        found = {d["kind"]: kuberay.problems(d) for d in documents(out) if d["apiVersion"].startswith("ray.io/")}
        assert found == {{"k8s": "RayCluster", "rayjob": "RayJob", "raycronjob": "RayCronJob"}[target]: []}

    @KUBERAY
    def test_kubernetes_takes_the_pods_of_clusters(
        self, render: Render, out: Path, target: str, variation: dict[str, Any]
    ) -> None:
        """A CRD does not check a pod as the API server does: its spec is held against a Pod of Kubernetes' own."""
        kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        render(target, **self.named(target, variation))
        specs = list(pod_specs(documents(out)))
        assert len(specs) == {"k8s": 3, "rayjob": 2, "raycronjob": 2}[target]
        for spec in specs:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
            kubernetes.validate(pod, kubernetes.latest_version(), strict=True)

    def test_pods_may_do_no_more_than_they_must(
        self, render: Render, out: Path, target: str, variation: dict[str, Any]
    ) -> None:
        render(target, **self.named(target, variation))
        for spec in pod_specs(documents(out)):
            assert spec["securityContext"]["runAsNonRoot"]
            for container in spec["containers"]:
                assert not container["securityContext"]["allowPrivilegeEscalation"]
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["requests"] == container["resources"]["limits"]

    def test_each_volume_and_config_map_is_there(
        self, render: Render, out: Path, target: str, variation: dict[str, Any]
    ) -> None:
        render(target, **self.named(target, variation))
        name = of_kind(out, "ConfigMap")["metadata"]["name"]
        for spec in pod_specs(documents(out)):
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            assert {mount["name"] for c in spec["containers"] for mount in c["volumeMounts"]} == set(volumes)
            assert volumes.get("job", {"configMap": {"name": name}})["configMap"] == {"name": name}


def pod_specs(found: Any) -> Any:
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for value in found.values():
            yield from pod_specs(value)
    elif isinstance(found, list):
        for value in found:
            yield from pod_specs(value)


class TestCronJob:
    def test_one_night_at_a_time_in_its_time_zone(self, render: Render, out: Path) -> None:
        render("k8s")
        spec = of_kind(out, "CronJob")["spec"]
        assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
            "30 3 * * *",
            "Europe/Paris",
            "Forbid",
        )

    def test_its_pod_waits_in_submit_at_the_clusters_address_with_the_clusters_token(
        self, render: Render, out: Path
    ) -> None:
        render("k8s")
        cluster = of_kind(out, "RayCluster")
        script = of_kind(out, "ConfigMap")["data"]["night.py"]
        assert (
            f'"submit", "/etc/optinfer/job.yaml", "--address", "http://{cluster["metadata"]["name"]}-head-svc:8265"'
            in script
        )
        env = next(pod_specs(of_kind(out, "CronJob")))["containers"][0]["env"]
        token = next(entry for entry in env if entry["name"] == "RAY_AUTH_TOKEN")
        assert token["valueFrom"]["secretKeyRef"] == {"name": cluster["metadata"]["name"], "key": "auth_token"}
        assert cluster["spec"]["authOptions"] == {"mode": "token"}

    def test_an_existing_cluster_gets_none_beside_it(self, render: Render, out: Path) -> None:
        render("k8s", address="http://ray.example:8265", retries=5)
        assert sorted(document["kind"] for document in documents(out)) == ["ConfigMap", "CronJob"]
        assert '"http://ray.example:8265", "--retries", "5"' in of_kind(out, "ConfigMap")["data"]["night.py"]

    def test_codes_that_another_try_would_give_again_end_the_night(self, render: Render, out: Path) -> None:
        render("k8s")
        job = of_kind(out, "CronJob")["spec"]["jobTemplate"]["spec"]
        (rule,) = job["podFailurePolicy"]["rules"]
        assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4, 5])
        assert rule["onExitCodes"]["containerName"] == next(pod_specs(job))["containers"][0]["name"]
        assert next(pod_specs(job))["restartPolicy"] == "Never"  # a failure policy needs it

    def test_the_job_is_in_the_config_map_as_it_was_written(self, render: Render, out: Path) -> None:
        render("k8s")
        assert of_kind(out, "ConfigMap")["data"]["job.yaml"] == JOB

    def test_a_cluster_that_grows_has_no_worker_at_first(self, render: Render, out: Path) -> None:
        render("k8s", overrides=("placement.max_replicas=4",), workers=4)
        spec = of_kind(out, "RayCluster")["spec"]
        (group,) = spec["workerGroupSpecs"]
        assert (spec["enableInTreeAutoscaling"], group["minReplicas"], group["maxReplicas"]) == (True, 0, 4)
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


class TestNightOfAPod:
    """`night.py`, run: which night a pod is for."""

    @pytest.fixture
    def night(self, render: Render, out: Path, tmp_path: Path) -> Any:
        render("k8s")
        script = tmp_path / "night.py"
        script.write_text(of_kind(out, "ConfigMap")["data"]["night.py"])
        told = tmp_path / "bin" / "optinfer"
        told.parent.mkdir()
        told.write_text('#!/bin/sh\necho "$@"\n')
        told.chmod(0o755)

        def run(**environment: str) -> subprocess.CompletedProcess[str]:
            return executed([sys.executable, str(script)], PATH=f"{told.parent}:{os.environ['PATH']}", **environment)

        return run

    @pytest.mark.parametrize(
        ("pod_of", "date"),
        [
            # 2026-11-25T02:30Z and 23:30Z: in Paris that is the day after. A pod made late, or again, has the same name.
            ("optinfer-embed-29926710", "2026-11-25"),
            ("optinfer-embed-29927970", "2026-11-26"),
            ("optinfer-embed-2026-11-20", "2026-11-20"),
            ("catch-up-2026-11-20", "2026-11-20"),
        ],
    )
    def test_it_is_the_night_of_the_tick_or_of_the_jobs_name(self, night: Any, pod_of: str, date: str) -> None:
        done = night(JOB_NAME=pod_of)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("submit /etc/optinfer/job.yaml --address ")
        assert done.stdout.endswith(f" --logical-date {date}\n")

    def test_a_job_whose_name_says_no_night_is_refused(self, night: Any) -> None:
        done = night(JOB_NAME="manual-x7f")
        assert (done.returncode, done.stdout) == (2, "")
        assert "which night? name the job optinfer-embed-YYYY-MM-DD" in done.stderr

    def test_without_a_job_it_is_today_in_the_schedules_zone(self, night: Any) -> None:
        from datetime import datetime
        from zoneinfo import ZoneInfo

        days = {datetime.now(ZoneInfo("Europe/Paris")).date()}
        done = night()
        days.add(datetime.now(ZoneInfo("Europe/Paris")).date())
        assert done.stdout.split()[-1] in {day.isoformat() for day in days}


def test_a_rayjobs_name_is_its_night(render: Render, out: Path) -> None:
    render("rayjob", retries=4)
    job = of_kind(out, "RayJob")
    assert job["metadata"]["name"] == "optinfer-embed-2026-11-27"
    assert job["spec"]["entrypoint"] == "env JOB_NAME=optinfer-embed-2026-11-27 python /etc/optinfer/night.py"
    assert job["spec"]["backoffLimit"] == 4
    assert "run" in of_kind(out, "ConfigMap")["data"]["night.py"]


def test_a_raycronjob_says_that_it_is_alpha_and_retries_no_night(render: Render, out: Path) -> None:
    render("raycronjob")
    assert (out / "raycronjob.yaml").read_text().startswith("# ALPHA. RayCronJob is alpha")
    spec = of_kind(out, "RayCronJob")["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["jobTemplate"]["backoffLimit"]) == (
        "30 3 * * *",
        "Europe/Paris",
        0,
    )


class TestCrontab:
    def test_the_line_is_one_that_cron_reads(self, render: Render, out: Path) -> None:
        croniter = pytest.importorskip("croniter").croniter
        render("cron")
        lines = [line for line in (out / "optinfer-embed.crontab").read_text().splitlines() if not line.startswith("#")]
        assert lines[0] == "CRON_TZ=Europe/Paris"
        *fields, command = lines[1].split(maxsplit=5)
        assert croniter.is_valid(" ".join(fields), strict=True)
        assert shlex.split(command)[0] == str(out / "optinfer-embed.sh")
        assert len(lines) == 2

    def test_a_percent_sign_is_no_line_break(self, render: Render, tmp_path: Path) -> None:
        render("cron", out=str(tmp_path / "100% of it"))
        line = (tmp_path / "100% of it" / "optinfer-embed.crontab").read_text().splitlines()[-1]
        assert r"100\% of it" in line
        assert not re.search(r"(?<!\\)%", line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("folder", ["out", 'a night\'s 100% "$HOME"'])
def test_systemd_takes_the_units(render: Render, tmp_path: Path, folder: str) -> None:
    render("systemd", out=str(tmp_path / folder), cron="30 3 13 * fri")
    units = [str(tmp_path / folder / f"optinfer-embed.{kind}") for kind in ("service", "timer")]
    done = executed(["systemd-analyze", "verify", "--man=no", *units])
    about_ours = [line for line in done.stderr.splitlines() if "optinfer" in line]
    assert about_ours == []
    assert "Persistent=true" in Path(units[1]).read_text()


class TestScript:
    """The script of a night, run: with the real program on real tables."""

    @pytest.fixture
    def script(self, render: Render, job: Path, out: Path, tmp_path: Path, write_table: WriteTable) -> Path:
        (tmp_path / "in").mkdir()
        write_table(tmp_path / "in" / "2026-11-24.parquet", rows=8)
        (tmp_path / "in" / "2026-11-20.parquet").write_bytes(b"no table")
        text = JOB.replace("s3://bucket/in/{previous}/", f"{tmp_path}/in/{{previous}}.parquet")
        job.write_text(text.replace("s3://bucket/out", f"{tmp_path}/scored"))
        render("cron", retries=2)
        return out / "optinfer-embed.sh"

    def test_a_failed_night_is_tried_again_and_is_the_same_night(self, script: Path) -> None:
        done = executed(["/bin/sh", str(script), "2026-11-21"], OPTINFER_RETRY_SECONDS="0")
        assert done.returncode == 1
        assert done.stderr.count("error:") == 3
        assert done.stderr.count("in/2026-11-20.parquet") >= 3

    def test_what_is_refused_is_not_tried_again(self, script: Path) -> None:
        done = executed(["/bin/sh", str(script), "21.11."], OPTINFER_RETRY_SECONDS="0")
        assert (done.returncode, done.stderr.count("is no day")) == (2, 1)

    def test_without_a_date_it_is_today_in_the_schedules_zone(self, script: Path) -> None:
        """Today's source is not there: the error names the day before today."""
        from datetime import datetime, timedelta
        from zoneinfo import ZoneInfo

        days = {datetime.now(ZoneInfo("Europe/Paris")).date() - timedelta(days=1)}
        done = executed(["/bin/sh", str(script)], OPTINFER_RETRY_SECONDS="0", TZ="Pacific/Kiritimati")
        days.add(datetime.now(ZoneInfo("Europe/Paris")).date() - timedelta(days=1))
        assert any(f"in/{day}.parquet" in done.stderr for day in days)

    def test_it_starts_in_the_folder_that_it_was_rendered_in(self, script: Path) -> None:
        assert f"cd {shlex.quote(str(Path.cwd()))} || exit 2" in script.read_text()

    def test_a_submitted_night_is_tried_again_by_submit(self, render: Render, out: Path) -> None:
        render("cron", address="http://ray:8265", retries=4, force=True)
        text = (out / "optinfer-embed.sh").read_text()
        assert re.search(
            r'exec \S+ -m optinfer submit \S+ --address http://ray:8265 --retries 4 --logical-date "\$night"', text
        )
        assert "sleep" not in text


def python_of(package: str) -> str | None:
    """Return a Python that has a scheduler: one of its own, named in the environment, or this one."""
    if named := os.environ.get(f"OPTINFER_TEST_{package.upper()}"):
        return named
    here = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False)
    return sys.executable if here.returncode == 0 else None


class TestAirflow:
    @pytest.fixture
    def dag(self, render: Render, out: Path) -> Path:
        render("airflow")
        return out / "optinfer_embed.py"

    def test_it_compiles_and_says_one_run_at_a_time_and_none_for_the_past(self, dag: Path) -> None:
        tree = ast.parse(dag.read_text())
        compile(tree, str(dag), "exec")
        (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DAG"]
        given = {k.arg: k.value for k in call.keywords}
        assert {name: ast.literal_eval(given[name]) for name in ("dag_id", "max_active_runs", "catchup")} == {
            "dag_id": "optinfer-embed",
            "max_active_runs": 1,
            "catchup": False,
        }
        assert "--logical-date" in dag.read_text()

    def test_airflow_imports_it_and_its_task_runs_the_logical_dates_night(self, dag: Path, tmp_path: Path) -> None:
        python = python_of("airflow")
        if python is None:
            pytest.skip("Airflow is not installed; OPTINFER_TEST_AIRFLOW names a Python that has it")
        done = executed(
            [python, str(Path(__file__).with_name("in_airflow.py")), str(dag)],
            AIRFLOW_HOME=str(tmp_path / "airflow"),
            PYTHONPATH=str(REPO),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.splitlines()[-1] == "ok"


class TestDagster:
    @pytest.fixture
    def definitions(self, render: Render, out: Path, job: Path, tmp_path: Path, write_table: WriteTable) -> Path:
        write_table(tmp_path / "in" / "2026-11-24.parquet", rows=0)
        text = JOB.replace("s3://bucket/in/{previous}/", f"{tmp_path}/in/{{previous}}.parquet")
        job.write_text(text.replace("s3://bucket/out", f"{tmp_path}/scored"))
        render("dagster", retries=0)
        return out / "optinfer_embed.py"

    def test_both_files_compile_and_the_schedule_has_its_zone(self, definitions: Path) -> None:
        for file in (definitions, definitions.with_name("optinfer_embed_night.py")):
            compile(ast.parse(file.read_text()), str(file), "exec")
        assert "cron_schedule='30 3 * * *', execution_timezone='Europe/Paris'" in definitions.read_text()

    def test_dagster_asks_for_each_night_once_and_records_what_optinfer_reports(self, definitions: Path) -> None:
        python = python_of("dagster")
        if python is None:
            pytest.skip("Dagster is not installed; OPTINFER_TEST_DAGSTER names a Python that has it")
        script = str(Path(__file__).with_name("in_dagster.py"))
        done = executed([python, script, str(definitions)], PYTHONPATH=str(REPO))
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines()[-1] == "ok"
