"""An alias of a registered model: where it is, moved on, moved back, and why that was done.

MLflow has no conditional write. What was read is read again right before the alias is moved, which leaves
milliseconds in which another's move is not seen. Why is written first, the alias moved last: where it ends between the
two, the same call again does the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optinfer.errors import AliasMovedError, ConfigError, OptinferError, redact, suggest
from optinfer.models.registered import client
from optinfer.records.model_version import ModelVersion
from optinfer.tracking.mlflow_store import bound, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The line of a version's description that is ours begins so.
_OURS = "optinfer: "
# MLflow takes longer tags, and other stores than its own may not.
_LONGEST_TAG = 500


@dataclass(frozen=True, kw_only=True)
class Move:
    """An alias that goes from one version to another.

    Attributes:
        before: where it has to be; `after`: where it goes.
        previous: alias that is left at `before`; back on the way on which it came, it is at `after` and goes.
        told: what tags say of it, of `after`, or of `before` where it goes back; `line`: the same for a person.
    """

    alias: str
    previous: str
    before: str
    after: str
    told: Mapping[str, str]
    line: str
    back: bool = False

    @property
    def told_of(self) -> str:
        """The version that it says something about."""
        return self.before if self.back else self.after


class RegisteredAliases:
    """The aliases of one registered model.

    Args:
        model: its name.
        tracking: MLflow's store; `MLFLOW_REGISTRY_URI` names another for its registry.
    """

    def __init__(self, model: str, tracking: str) -> None:
        bound()
        self._model, self._tracking = model, tracking
        self._registry: MlflowClient = client(tracking)

    def at(self, alias: str) -> str:
        """Return the version that an alias is at.

        Raises:
            ConfigError: there is none of that name.
        """
        known = self._all()
        if alias not in known:
            raise ConfigError(
                f"{self._model} has no alias {alias!r}{suggest(alias, known) if known else ''}; set it once in MLflow, "
                f"or with MlflowClient().set_registered_model_alias({self._model!r}, {alias!r}, VERSION)"
            )
        return known[alias]

    def require_at(self, alias: str, version: str) -> None:
        """Refuse to go on where an alias is not at the version that something was decided about.

        Raises:
            AliasMovedError: it is elsewhere.
        """
        if (now := self.at(alias)) != version:
            raise AliasMovedError(
                f"{self._model}@{alias} is at version {now}, not at {version}, about which this was decided: somebody "
                "moved it meanwhile, and it stays there; compare with what it is now"
            )

    def require(self, version: ModelVersion) -> None:
        """Refuse a version that is not there any more as it was.

        Raises:
            ConfigError: it is not.
        """
        with self._asking():
            created = self._registry.get_model_version(version.name, version.version).creation_timestamp
        if created != version.created:
            raise ConfigError(
                f"{version.uri} was registered anew since it was compared: another model has its number now; compare "
                "again"
            )

    def tags(self, version: str, alias: str) -> dict[str, str]:
        """Return what the tags of a version say of a move of this alias to it."""
        with self._asking():
            tags = self._registry.get_model_version(self._model, version).tags
        prefix = tag(alias, "")
        return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}

    def move(self, move: Move) -> None:
        """Move an alias on, and leave `previous` where it was; or back, after which there is no `previous`.

        Raises:
            AliasMovedError: it is not at `before` any more.
        """
        self.require_at(move.alias, move.before)
        with self._asking():
            self._explain(move)
            if not move.back:
                self._registry.set_registered_model_alias(self._model, move.previous, move.before)
            self.require_at(move.alias, move.before)
            self._registry.set_registered_model_alias(self._model, move.alias, move.after)
            if move.back:
                self._registry.delete_registered_model_alias(self._model, move.previous)

    def _explain(self, move: Move) -> None:
        for name, value in move.told.items():
            self._registry.set_model_version_tag(self._model, move.told_of, tag(move.alias, name), value[:_LONGEST_TAG])
        known = self._registry.get_model_version(self._model, move.told_of).description or ""
        kept = [line for line in known.splitlines() if not line.startswith(f"{_OURS}{move.alias} ")]
        lines = [*kept, *([""] if kept and kept[-1] else []), f"{_OURS}{move.alias} {move.line}"]
        self._registry.update_model_version(self._model, move.told_of, "\n".join(lines))

    def _all(self) -> dict[str, str]:
        with self._asking():
            found = self._registry.get_registered_model(self._model)
        return {name: str(version) for name, version in found.aliases.items()}

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except OptinferError:
            raise
        except Exception as error:
            status = getattr(error, "get_http_status_code", lambda: None)()
            kind = ConfigError if status in (400, 404) else OptinferError
            raise kind(
                f"the registry at {redact(self._tracking)} does not do what it is asked for {self._model}: "
                f"{reason(self._tracking, error)}; check the name, tracking.uri and MLFLOW_REGISTRY_URI"
            ) from error


def tag(alias: str, name: str) -> str:
    """Return the tag of a version that says something of its way to an alias, or back."""
    return f"optinfer.{alias}.{name}"
