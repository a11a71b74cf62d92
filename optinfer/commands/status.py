"""status(url): how far the job that writes an output folder is; reads the folder alone."""

from __future__ import annotations

import time

from optinfer.data.account import Accounts
from optinfer.data.lease import described, holder, is_live
from optinfer.data.output import Output
from optinfer.data.storage import STATE
from optinfer.errors import ConfigError
from optinfer.records.status import Status
from optinfer.system import home


def status(url: str) -> Status:
    """Describe an output folder.

    Raises:
        ConfigError: no optinfer job writes there.
    """
    output = Output(url)
    job = output.binding.job()
    if job is None:
        if output.folder.read(f"{STATE}/job.json") is not None:
            raise ConfigError(
                f"{output.shown}/{STATE}/job.json cannot be read; `optinfer run` with the job makes it anew"
            )
        raise ConfigError(f"{output.shown} is not the output of an optinfer job; give the job's sink.path")
    held = holder(output.folder)
    live = held is not None and is_live(held, time.time())
    manifest = output.manifest()
    total = output.binding.planned_fragments()
    planned = total or 0
    there, damage = output.intact(Accounts(output.folder, job.fingerprint), planned)
    damage += () if total is not None else (f"{STATE}/plan.pq is missing, or cannot be read",)
    if manifest is None and output.folder.read("_SUCCESS") is not None and not live:
        damage += ("_SUCCESS is there, and _manifest.json is missing, or cannot be read",)
    return Status(
        output=output.shown,
        state="running" if live else "damaged" if damage else "done" if manifest else "interrupted",
        fingerprint=job.fingerprint,
        fragments=total,
        fragments_committed=int(there[:planned].sum()),  # an empty table has a part and no fragment
        rows=job.rows,
        quarantine_files=len(output.folder.names(under="_quarantine")),
        run_id=manifest.run.run_id if manifest else None,
        holder=described(held) if held and live else None,
        home=home.shown(),
        damage=damage,
    )
