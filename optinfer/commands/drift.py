"""drift(output): a finished output held against a reference again; nothing is scored."""

from __future__ import annotations

from optinfer.commands.watching import held
from optinfer.data import reference
from optinfer.data.output import Output
from optinfer.data.reference import Kept
from optinfer.errors import ConfigError
from optinfer.records.drift import Drift
from optinfer.system import home


def drift(url: str, against: str | None = None, accept: bool = False) -> Drift:
    """Say what moved in an output since its reference.

    Args:
        url: of the output.
        against: another output, in the place of the reference.
        accept: this output is the job's reference from now on.

    Raises:
        ConfigError: there is no sketch of one of them, no reference, or it is of another model or other columns.
    """
    tonight = _sketch(url)
    if accept:
        home.require_writable()
        reference.replace(tonight)
        note = f"later outputs of {tonight.about.job} are held against run {tonight.about.run_id}"
        return Drift(status="reference", rows=tonight.rows.num_rows, note=note)
    before = _sketch(against) if against is not None else reference.reference(tonight.about)
    if before is None:
        raise ConfigError(
            f"no reference of {tonight.about.job} is kept in {home.shown()}; name another output with --reference, or "
            "make this one the reference with --accept"
        )
    return held(tonight, before)


def _sketch(url: str) -> Kept:
    output = Output(url)
    kept = reference.read(output.folder)
    if kept is not None:
        return kept
    if output.binding.job() is None:
        raise ConfigError(f"{output.shown} is not the output of an optinfer job; give the job's file or its sink.path")
    if output.manifest() is None:
        raise ConfigError(f"{output.shown} is not finished; run its job to the end first")
    raise ConfigError(
        f"nothing was kept of the rows of {output.shown}: it is of before outputs were watched, or its job says "
        "monitor: false; give a later one"
    )
