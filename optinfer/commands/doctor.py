"""Is this machine fit for a job? Each check is ok or says the fix; nothing is left behind.

A check that fails never stops the next one: a person wants the whole list.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from optinfer.commands.readiness import require_conditional
from optinfer.config import JobConfig
from optinfer.errors import OptinferError, redact
from optinfer.execution.access import require_guarded
from optinfer.execution.reach import chosen, require_startable
from optinfer.models.registered import pinned
from optinfer.optimization.variants import listing
from optinfer.records.machine import Check
from optinfer.system import home
from optinfer.system.machine import cpu_features, gpu, lacks_nvidia_gpu, nvidia_gpus

_PACKAGES = (
    *("ray", "torch", "onnxruntime-gpu", "openvino", "nncf", "pyarrow", "s3fs", "mlflow", "transformers"),
    *("scikit-learn", "skl2onnx", "onnxmltools", "xgboost", "xgboost-cpu", "lightgbm"),
)
_CONNECT_SECONDS = 3.0


def examine(address: str | None, job: JobConfig | None) -> list[Check]:
    """Run every check; with a job, also its model, source, sink and tracking.

    Args:
        address: Ray cluster to reach; None checks `RAY_ADDRESS`, or that Ray can start here.
        job: the job whose parts are checked, or None.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", platform.python_version),
        ("packages", _packages),
        ("cpu", _cpu),
        ("gpu", _gpu),
        ("variants", _variants),
        ("home", _home),
        ("ray", lambda: _ray(address)),
        ("access", lambda: require_guarded(address)),
        ("mlflow", lambda: _tracking(job.tracking.uri if job and job.tracking.uri else home.default_tracking_uri())),
    ]
    if job:
        checks += [("source+model", lambda: _plan(job)), ("sink", lambda: _writable(pinned(job)[0].sink.path))]
    return list(_run(checks))


def _run(checks: list[tuple[str, Callable[[], str]]]) -> Iterator[Check]:
    for name, check in checks:
        try:
            yield Check(name=name, ok=True, detail=check())
        except Exception as error:
            detail = str(error) if isinstance(error, OptinferError) else f"{type(error).__name__}: {error}"
            yield Check(name=name, ok=False, detail=detail)


def _packages() -> str:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return ", ".join(found) + (
        f"; not installed (optional or another platform's): {', '.join(missing)}" if missing else ""
    )


def _cpu() -> str:
    features = cpu_features()
    missing = [name for name in ("avx512_vnni", "avx512_bf16") if name not in features]
    advice = f"; without {', '.join(missing)} int8 or bf16 gain little here" if missing and features else ""
    return f"{os.cpu_count()} CPUs, {' '.join(features) or platform.machine()}{advice}"


def _gpu() -> str:
    if reason := lacks_nvidia_gpu():
        return f"none ({reason}): variants for cuda are not available, the others are"
    return f"{nvidia_gpus()} NVIDIA GPUs, {gpu()}"


def _variants() -> str:
    offers = listing()
    available = [offer.name for offer in offers if offer.available]
    lacking = [f"{offer.name} ({offer.reason})" for offer in offers if not offer.available]
    return f"available: {', '.join(available)}" + (f"; not available: {'; '.join(lacking)}" if lacking else "")


def _home() -> str:
    here = _writable(str(home.home()))
    url = home.store()
    return f"{_writable(url)}; {here}, this machine's cache of it" if url else here


def _writable(url: str) -> str:
    require_conditional(url)
    return f"{redact(url)} takes conditional writes"


def _ray(address: str | None) -> str:
    where, _ = chosen(address)
    if where is None:
        require_startable()
        return f"{version('ray')}, would be started here with {os.cpu_count()} CPUs"
    from optinfer.execution.cluster import connected
    from optinfer.execution.ray_process import PROCESS

    with connected(address):
        nodes = PROCESS.free_nodes()
    return (
        f"{where}: {len(nodes)} nodes, {sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs free"
    )


def _tracking(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            socket.create_connection(address, _CONNECT_SECONDS).close()
        except OSError as error:
            raise OptinferError(
                f"{redact(uri)} does not answer ({error}); start it or correct tracking.uri; "
                "jobs run without it, their journals keep everything"
            ) from error
    return f"{version('mlflow')}, {redact(uri)}"


def _plan(job: JobConfig) -> str:
    from optinfer.commands.resolved import resolve

    planned = resolve(job)
    return f"{planned.plan.rows:,} rows in {len(planned.plan.files)} files, model {planned.subject.model.key}"
