"""What `promote` prints for people; `--json` prints the same values as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optinfer.records.promotion import PromoteRecord

_SAID = {
    "promoted": "moved from version {before} to {after}; {previous} is at {before}",
    "would promote": "would move from version {before} to {after} (dry run, nothing was moved)",
    "refused": "stays at version {before}: the rule does not hold for version {after}",
    "nothing to do": "is at version {after} already",
    "rolled back": "moved back from version {before} to {after}; {previous} is gone",
    "would roll back": "would move back from version {before} to {after} (dry run, nothing was moved)",
}


def promote_text(record: PromoteRecord) -> str:
    """Say where the alias is, and why."""
    said = _SAID[record.status].format(before=record.before, after=record.after, previous=record.previous)
    lines = [f"{record.model}@{record.alias} {said}", f"  {record.reason}"]
    lines += [f"  {'holds' if one.holds else 'FAILS'}  {one.rule}: {one.found}" for one in record.clauses]
    return "\n".join(lines)
