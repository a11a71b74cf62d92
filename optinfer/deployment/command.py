"""The command `optinfer submit`, from what was typed to what is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date

from optinfer.deployment import asked, rayjob, submission
from optinfer.deployment.following import Say
from optinfer.deployment.packing import JOB_FILE, Package, pack
from optinfer.deployment.submission import Submitted, Wish
from optinfer.errors import ConfigError
from optinfer.job_file import load_job
from optinfer.records.run import RunRecord


@dataclass(frozen=True)
class Request:
    """What was typed, by the names of the options."""

    job: str
    overrides: tuple[str, ...] = ()
    logical_date: date | None = None
    address: str | None = None
    header: tuple[str, ...] = ()
    verify: str = "true"
    env: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    python: str = "python"
    no_wait: bool = False
    retries: int = 0
    stop: bool = False
    image: str | None = None


def submitted(request: Request, say: Say) -> Submitted:
    """Do what `optinfer submit` does.

    Raises:
        ConfigError: the job, an option or the cluster's address is wrong, or a token is missing.
        OptinferError: the cluster cannot be reached or refuses the job.
    """
    from optinfer.deployment.jobs_api import RayJobs, Reach

    if request.image:
        raise ConfigError("--image is the image of a manifest; add --render, or leave it out")
    if request.retries and (request.no_wait or request.stop):
        raise ConfigError("--retries has no use with --no-wait or --stop: only who waits knows how a job ended")
    reach = Reach(request.address, asked.headers(request.header), asked.verify(request.verify))
    package, wish = _packed(request, say), _wish(request, say)
    jobs = RayJobs(reach)
    if request.stop:
        return submission.stop(jobs, package, say)
    return submission.submit(jobs, package, wish, say)


def rendered(request: Request, say: Say) -> str:
    """Return what would be submitted as a RayJob's manifest; nothing is sent.

    Raises:
        ConfigError: there is no image, a model would travel, or something is asked that a RayJob cannot do.
    """
    from importlib.metadata import version

    if not request.image:
        raise ConfigError("--render needs --image: one that has optinfer and Ray, see cluster/image")
    if request.retries:
        raise ConfigError(
            "a RayJob tries again after any exit code, those of wrong job files included; leave --retries out, or let "
            "a CronJob's pod wait in `optinfer submit --retries`"
        )
    package, wish = _packed(request, say), _wish(request, say)
    _require_texts(package)
    asked.require_no_secret("a manifest", [package.text], [name for name, _ in wish.env])
    return rayjob.manifest(
        rayjob.RayJob(
            name=package.job.name,
            entrypoint=submission.command(wish.python, f"{rayjob.JOB_FOLDER}/{JOB_FILE}"),
            image=request.image,
            ray_version=version("ray"),
            files={JOB_FILE: package.text} | {name: file.read_text("utf-8") for name, file in package.files.items()},
            env=submission.STOP_SECONDS | dict(wish.env),
        )
    )


def text(done: Submitted) -> str:
    """Return what people are told on stdout: what the run answered, or the id where nobody waited for that."""
    from optinfer.records.text import run_text

    if done.exit_code != 0:
        return ""
    if done.result is None:
        return done.submission_id or ""
    try:
        return run_text(RunRecord.of(done.result))
    except ValueError:  # the cluster's optinfer is another version
        return json.dumps(done.result)


def _packed(request: Request, say: Say) -> Package:
    package = pack(load_job(request.job, request.overrides, request.logical_date), request.shared)
    for note in package.notes:
        say(note)
    return package


def _wish(request: Request, say: Say) -> Wish:
    return Wish(
        python=request.python,
        env=asked.variables(request.env, say),
        wait=not request.no_wait,
        retries=request.retries,
        again=asked.same_again(request.job, request.overrides, request.shared, request.address, request.logical_date),
    )


def _require_texts(package: Package) -> None:
    if models := [name for name in package.files if not name.endswith(".py")]:
        raise ConfigError(
            f"a manifest carries no model ({models[0]}); put it on a store (s3://…), register it (models:/…), or name "
            "a folder that the image or a volume has with --shared FOLDER"
        )
