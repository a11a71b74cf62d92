"""What every record has: plain values for JSON, and the way back, checked, from what JSON gave."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """A frozen value that text, JSON and MLflow are made from."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, as `--json` has it."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    def _repr_html_(self) -> str:
        """Return it as notebooks show it."""
        from optinfer.records.html import shown

        return shown(type(self).__name__, self.as_dict())


def plain(value: object) -> Any:
    """Return a value whose records, however deep, have become plain ones."""
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def decoded(kind: type[T], raw: object) -> T:
    """Return the record that plain values describe; what it does not know is left out.

    Raises:
        ValueError: they are none of this kind; says which value is not.
    """
    made: T = _adapter(cast("Hashable", kind)).validate_python(raw)
    return made


def decoded_leniently(kind: type[T], raw: Mapping[str, object]) -> T:
    """Return the record that an earlier version wrote: a value that is none any more has its default.

    Raises:
        ValueError: one that has no default is missing, or none.
    """
    known: dict[str, object] = {}
    for name, hint in _hints(cast("Hashable", kind)).items():
        if name in raw:
            try:
                known[name] = _adapter(hint).validate_python(raw[name])
            except ValidationError:
                continue
    try:
        return kind(**known)
    except TypeError as error:
        raise ValueError(str(error)) from error


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


@cache
def _hints(kind: Any) -> dict[str, object]:
    return get_type_hints(kind)
