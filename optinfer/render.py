"""What the commands print for people; `--json` prints the same values as they are."""

from __future__ import annotations

from typing import Any


def run_text(run: dict[str, Any]) -> str:
    """Say what was done and where to look."""
    if run["status"] == "nothing to do":
        return f"nothing to do: {run['output']} holds all {run['rows_in']:,} rows of this job (run {run['run_id']})"
    lines = [
        f"{run['rows_out']:,} of {run['rows_in']:,} rows scored, {run['rows_quarantined']:,} quarantined",
        f"  variant     {run['variant']}{_gate(run)}",
        f"  speed       {_speed(run)}",
        f"  fragments   {run['fragments']}, of which {run['fragments_resumed']} were committed earlier",
        f"  output      {run['output']}  (read *.parquet; _manifest.json has the whole account)",
        f"  mlflow      {_mlflow(run['mlflow'])}",
    ]
    return "\n".join(lines)


def _gate(run: dict[str, Any]) -> str:
    gate, certificate = run["gate"], run["certificate"]
    if not gate:
        return ""
    invariant = "same answer in any batch" if certificate["batch_invariant"] else "answers depend on the batch"
    return (
        f": {gate['metric']} to the baseline at least {gate['value']:.4f} (95%) on {gate['sample_rows']} sample rows, "
        f"gate {gate['threshold']:g}; {invariant}"
    )


def _speed(run: dict[str, Any]) -> str:
    text = f"{run['rows_per_second']:,.1f} rows/s over {run['seconds']:.1f} s"
    if run["startup_seconds"] is not None:
        text += f", first fragment after {run['startup_seconds']:.1f} s"
    if run.get("steady_rows_per_second"):
        text += f", then {run['steady_rows_per_second']:,.1f} rows/s"
    return text


def _mlflow(mlflow: dict[str, Any]) -> str:
    where = f"run {mlflow.get('run_id')} in experiment {mlflow.get('experiment')} at {mlflow.get('uri')}"
    return f"{where}; {mlflow['warning']}" if "warning" in mlflow else where


def plan_text(plan: dict[str, Any]) -> str:
    lines = [f"{key:<12} {value}" for key, value in plan.items() if key not in ("placement", "warnings")]
    placement = plan["placement"]
    lines.append(f"{'placement':<12} {placement['replicas']} replicas on {placement['device']}")
    lines += [f"{'':<12} {reason}" for reason in placement["reasons"]]
    lines += [f"warning: {line}" for line in plan["warnings"]]
    return "\n".join(lines)


def variants_text(listing: list[dict[str, Any]]) -> str:
    width = max(len(v["name"]) for v in listing)
    return "\n".join(
        f"{v['name']:<{width}}  {'available    ' if v['available'] else 'not available'}  "
        f"{v['about'] if v['available'] else v['reason']}"
        for v in listing
    )


def doctor_text(checks: list[dict[str, Any]]) -> str:
    return "\n".join(f"{'ok ' if c['ok'] else 'FIX'}  {c['name']:<14} {c['detail']}" for c in checks)


def status_text(status: dict[str, Any]) -> str:
    return "\n".join(f"{key:<20} {value}" for key, value in status.items())
