"""Where the time of a run went, what was the bottleneck, and what would help. Pure.

A replica works on two fragments at a time, one in the model and one being read, preprocessed or committed. So what its
time is worth is the share that its model was busy; the other parts count where the model waited for them. With one core
each, nothing overlaps with the model but waiting: there all parts count alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from optinfer.records.run import Breakdown
from optinfer.records.stats import Stats
from optinfer.tracking.tally import Tally

PARTS = ("read", "preprocess", "wait", "infer", "postprocess", "commit")
# From here on the model is the limit: what is left to gain beside it is less than measuring it costs.
_BUSY = 0.85
_NOTABLE = 0.15
_LONG_START = 0.5
_STEPS = ("prepare", "ray", "actors", "load")

_ADVICE = {
    "infer": "the model is the limit: more CPUs or GPUs, a faster variant (`optinfer optimize`), or other settings "
    "(`optinfer tune`)",
    "read": "replicas wait for reading: bring the source nearer, write larger row groups, or carry fewer sink.columns",
    "preprocess": "replicas wait for preprocessing (tokenizing, decoding): more CPU threads for each replica, or a "
    "table of smaller images or texts",
    "postprocess": "replicas wait for putting outputs together: ask for fewer outputs (model.outputs, top_k)",
    "commit": "replicas wait for commits: bring the sink nearer, or raise source.fragment_rows so that there are fewer",
    "startup": "start-up took most of the time: score more rows in one job, or on a cluster that is already running",
    "replicas": "replicas had nothing to do for part of the time: fewer replicas, or smaller source.fragment_rows",
}


def break_down(
    tally: Tally, started: float, marks: Mapping[str, float], ended: float, one_core: bool = False
) -> Breakdown | None:
    """Tell where a run's time went; None where it scored nothing.

    Args:
        started, ended: seconds since the epoch; so are `marks`: when the steps `prepare` and `ray` were done.
        one_core: a replica has a single one, on which preprocessing and the model take turns.
    """
    if tally.first_receipt is None:
        return None
    startup = _startup(tally, started, marks)
    parts = {part: round(getattr(tally.scored, f"{part}_seconds"), 3) for part in PARTS}
    share = tally.model_share()
    long_start = tally.first_receipt - started > _LONG_START * (ended - started)
    bottleneck = "startup" if long_start else _limit(tally.scored, share, one_core)
    advice = _ADVICE[bottleneck] + (_second(tally.scored) if bottleneck == "infer" else "")
    return Breakdown(startup, parts, share if share is None else round(share, 4), bottleneck, advice)


def _startup(tally: Tally, started: float, marks: Mapping[str, float]) -> dict[str, float]:
    """Return seconds of each step of start-up, in order; steps that overlap are counted where they end."""
    times = dict(marks)
    if tally.first_load:
        times["actors"] = tally.first_load[0]
        times["load"] = sum(tally.first_load)
    times["first fragment"] = tally.first_receipt or started
    seconds, before = {}, started
    for step in (*_STEPS, "first fragment"):
        if step in times:
            seconds[step] = round(max(times[step] - before, 0.0), 3)
            before = max(before, times[step])
    return seconds


def _second(stats: Stats) -> str:
    """Name what takes a good part of the work beside the model: on a CPU it takes the model's own cores."""
    seconds = {part: getattr(stats, f"{part}_seconds") for part in PARTS if part != "wait"}
    beside = max((part for part in seconds if part != "infer"), key=lambda part: seconds[part])
    share = seconds[beside] / max(sum(seconds.values()), 1e-9)
    return f"; {beside} is {share:.0%} of the replicas' work" if share >= _NOTABLE else ""


def _limit(stats: Stats, model_share: float | None, one_core: bool) -> str:
    """Name the part that limits: the model where it is busy, else the longest of what it may have waited for."""
    beside = {part: getattr(stats, f"{part}_seconds") for part in ("read", "preprocess", "postprocess", "commit")}
    longest = max(beside, key=lambda part: beside[part])
    longest_of_all = "infer" if stats.infer_seconds >= beside[longest] else longest
    if model_share is None:
        return longest_of_all
    if model_share >= _BUSY:
        return "infer"
    if one_core and model_share * (1 + sum(beside.values()) / max(stats.infer_seconds, 1e-9)) >= _BUSY:
        return longest_of_all
    # With two fragments at a time, what is beside the model only delays it where it takes as long.
    return longest if sum(beside.values()) > stats.infer_seconds / 2 else "replicas"
