"""What `tune` searches for: most rows a second of a node, or least cost of a million rows."""

from __future__ import annotations

from collections.abc import Callable

from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.forecast.speed import per_million, price
from optinfer.records.tuning import NodeKind


def objective(config: JobConfig, node: NodeKind) -> Callable[[float], float]:
    """Return what turns a node's rows per second into what the job searches for.

    Args:
        node: the kind of node that is measured.

    Raises:
        ConfigError: cost is searched for, and the job has no price for this node.
    """
    if config.tuning.objective == "rows_per_second":
        return lambda rows_per_second: rows_per_second
    name = node.gpu if node.gpus else None
    hourly = price(config.placement, name)
    if not hourly:
        raise ConfigError(
            f"tuning.objective: cost needs the price of this node ({name or 'without a GPU'}); set "
            f"placement.cost_per_hour: {{{'<accelerator type>' if name else 'cpu'}: <price of an hour>}}"
        )
    return lambda rows_per_second: per_million(rows_per_second, hourly)
