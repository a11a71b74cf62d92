"""What can be told in a second is told before minutes of proving: a job that cannot end well is refused here.

The plan has refused what the job file and the table tell; this asks the places that the run will need.
"""

from __future__ import annotations

import os
import tempfile
import uuid

import psutil

from optinfer.commands.planning import Planned
from optinfer.config import AUTO
from optinfer.data.storage import STATE, Folder, is_local, reaching
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.execution.cluster import connected_already
from optinfer.execution.placement import Node
from optinfer.execution.reach import chosen
from optinfer.forecast.estimate import placed
from optinfer.optimization.variants import catalog, get
from optinfer.system import home
from optinfer.system.machine import nvidia_gpus


def require_ready(planned: Planned, address: str | None) -> None:
    """Refuse a job that has no place for what it keeps, for its rows or for its replicas.

    Raises:
        OptinferError: names the place and what to do.
    """
    home.require_writable()
    require_temporary()
    if not is_local(planned.config.sink.path):  # a local one is written to next, by the lock
        require_conditional(planned.config.sink.path)
    if chosen(address)[0] is None and not connected_already():
        _require_room(planned)


def require_temporary() -> None:
    """Refuse a machine on which no temporary file can be made."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise OptinferError(f"{error.strerror}; set TMPDIR to a folder that exists and has room") from error


def require_conditional(url: str) -> None:
    """Refuse a place that cannot be written to, or would let one commit overwrite another.

    Raises:
        OptinferError: it cannot be used.
        ConfigError: it does not create files only where there is none.
    """
    folder, probe = Folder(url), f"{STATE}/probe-{uuid.uuid4().hex}"
    with reaching(url):
        try:
            created = folder.put_new(probe, b"probe")
            again = folder.put_new(probe, b"again")
        finally:
            folder.delete(probe)
    if not created or again:
        raise ConfigError(f"{redact(url)} does not create files conditionally; use S3, GCS or a local disk")


def _require_room(planned: Planned) -> None:
    """Refuse a placement that this machine cannot hold even when nothing else runs on it."""
    config, wishes = planned.config, planned.config.placement
    automatic = config.variant == AUTO and wishes.device == AUTO
    if wishes.resources or wishes.accelerator_type or (automatic and nvidia_gpus()):
        return  # what Ray knows of this machine, nobody else does; or both kinds of placement may come
    device = (
        "cpu" if automatic else wishes.device if config.variant == AUTO else get(config.variant, catalog(config)).device
    )
    here = Node(os.cpu_count() or 1, nvidia_gpus(), memory_mb=psutil.virtual_memory().total / 1e6)
    placed(planned, None, device, [here], max(len(planned.plan.fragments), 1))
