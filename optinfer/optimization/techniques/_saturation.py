"""Whether 8-bit weights must stay within 7 bits: a CPU without VNNI sums two products in 16 bits, which may saturate.

Twice 255 * 127 is 64,770, and 16 bits hold 32,767: what is above is cut off, and on some rows the answer is another
one. With weights of 7 bits no sum is that large.
"""

from __future__ import annotations

from typing import Any

from optinfer.errors import ConfigError
from optinfer.system.machine import VNNI, cpu_features


def reduce_range(technique: str, option: Any) -> bool:
    """Return what the option says; `auto` asks the CPU, whose features are part of what names an artifact."""
    if option == "auto":
        return not set(VNNI) & set(cpu_features())
    if not isinstance(option, bool):
        raise ConfigError(f"{technique}: reduce_range is {option!r}; valid: auto, true, false")
    return option


def load_options(reduced: bool) -> dict[str, bool]:
    """Tell the session of weights that need exact sums."""
    return {} if reduced else {"full_range": True}


def overflow_fix(reduced: bool) -> Any:
    """Return what makes NNCF keep all weights within 7 bits; None leaves it the first convolution's, as it does."""
    import nncf

    return nncf.OverflowFix.ENABLE if reduced else None
