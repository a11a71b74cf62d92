"""What can be told in a second is told before minutes of proving: a job that cannot end well is refused here.

The plan has refused what the job file and the table tell; this asks the places that the run will need.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable

from optinfer.commands.resolved import Resolved
from optinfer.config import AUTO
from optinfer.data import home_store
from optinfer.data.storage import STATE, Folder, is_local
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.execution.placement import Node
from optinfer.execution.placing import placed
from optinfer.optimization.variants import get
from optinfer.system import home
from optinfer.system.outages import WAITING, Waiting, reaching


def require_ready(job: Resolved, here: Node | None) -> None:
    """Refuse a job that has no place for what it keeps, for its rows or for its replicas.

    Args:
        here: the node that its replicas will have, where that is known already.

    Raises:
        OptinferError: names the place and what to do.
    """
    require_places()
    if not is_local(job.config.sink.path):  # a local one is written to next, by the lock
        require_conditional(job.config.sink.path)
    if here is not None:
        _require_room(job, here)


def require_places() -> None:
    """Refuse a machine on which nothing can be kept, or worked out aside, and a home's store that is not to be used."""
    home.require_writable()
    require_temporary()
    home_store.begin(require_conditional)


def journal_copies(run_id: str) -> dict[str, Callable[[str, bytes], None]]:
    """Return where the journal of a run without an output is to be copied to, with what takes a piece of it."""
    return home_store.journal(run_id)


def require_temporary() -> None:
    """Refuse a machine on which no temporary file can be made."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise OptinferError(f"{error.strerror}; set TMPDIR to a folder that exists and has room") from error


def require_conditional(url: str, waiting: Waiting = WAITING) -> None:
    """Refuse a place that cannot be written to, or would let one commit overwrite another.

    Raises:
        OptinferError: it cannot be used.
        ConfigError: it does not create files only where there is none.
    """
    folder, probe = Folder(url, waiting), f"{STATE}/probe-{uuid.uuid4().hex}"
    with reaching(url):
        try:
            created = folder.put_new(probe, b"probe")
            again = folder.put_new(probe, b"again")
        finally:
            folder.delete(probe)
    if not created or again:
        raise ConfigError(f"{redact(url)} does not create files conditionally; use S3, GCS or a local disk")


def _require_room(job: Resolved, here: Node) -> None:
    """Refuse a placement that this machine cannot hold even when nothing else runs on it."""
    config, wishes = job.config, job.config.placement
    automatic = config.variant == AUTO and wishes.device == AUTO
    if wishes.resources or wishes.accelerator_type or (automatic and here.gpus):
        return  # what Ray knows of this machine, nobody else does; or both kinds of placement may come
    named = None if config.variant == AUTO else get(config.variant, job.subject.catalog)
    device = named.device if named else "cpu" if automatic else wishes.device
    placed(wishes, None, device, [here], max(len(job.plan.fragments), 1))
