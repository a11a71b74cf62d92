"""Brings a journal to where it outlives its machine: as pieces beside the output, each named by where it begins.

A piece is sent again from its beginning, and longer, where nobody knows whether it arrived: so there is never a gap,
and whoever puts the pieces together by their names has the journal up to the last minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from optinfer.tracking.courier import Courier, Letter

Put = Callable[[str, bytes], None]

_EVERY_SECONDS = 60.0
# A job waits for the last piece no longer than this.
_WAIT_SECONDS = 2.0


class JournalCopy:
    """Copies what a journal has grown by, on a thread of its own: a store that is slow holds nobody up.

    Args:
        put: takes a name and the bytes of a piece, replacing what is there.
    """

    def __init__(self, journal: Path, put: Put) -> None:
        self._journal, self._put = journal, put
        self._sent, self._last = 0, float("-inf")
        self._courier = Courier("journal")

    def grown(self, time: float) -> None:
        """Send what there is by then, where the last piece is some time ago."""
        if time - self._last >= _EVERY_SECONDS:
            self._last = time
            self._send()

    def close(self) -> str:
        """Send the rest and wait for it, a bounded time; return why the copy is not whole, nothing where it is."""
        rest = self._send()
        return next((one.reason for one in self._courier.close(_WAIT_SECONDS) if one.letter is rest), "")

    def _send(self) -> Letter:
        letter = Letter(what="the journal", to="the output", body="", deliver=self._deliver)
        self._courier.send(letter)
        return letter

    def _deliver(self, given_up: threading.Event) -> None:
        with open(self._journal, "rb") as file:
            file.seek(self._sent)
            piece = file.read()
        # A line that is being written goes with the next piece.
        piece = piece[: piece.rfind(b"\n") + 1]
        if piece:
            self._put(f"{self._sent:015d}.jsonl", piece)
            self._sent += len(piece)


def whole(pieces: Mapping[str, bytes]) -> bytes:
    """Return the journal that pieces are of, by their names.

    Raises:
        ValueError: one is missing, or is none.
    """
    journal = b""
    for name in sorted(pieces):
        if int(name.removesuffix(".jsonl")) != len(journal):
            raise ValueError(f"what should begin at byte {len(journal)} begins with {name}")
        journal += pieces[name]
    return journal
