"""Files that are watched while they are read: what is asked of them, and what happens just before they answer."""

from __future__ import annotations

from collections.abc import Callable

from optinfer.data.patience import Patience
from optinfer.data.pinned import PinnedFile, opened

Before = Callable[[int, int], None]


class WatchedFile(PinnedFile):
    """A file that is read as it is, after `before` was told which bytes are wanted."""

    def __init__(self, file: PinnedFile, before: Before) -> None:
        super().__init__(file.size, file.version)
        self._file, self._before = file, before

    def hold(self) -> None:
        self._file.hold()

    def _fetch(self, start: int, stop: int) -> bytes:
        self._before(start, stop)
        return self._file._between(start, stop)

    def close(self) -> None:
        self._file.close()
        super().close()


class Watch:
    """Opens files and keeps, for each, the ranges that are fetched of it; `act` is called once, before read `at`."""

    def __init__(self, act: Callable[[], object] | None = None, at: int = 0) -> None:
        self.files: list[list[tuple[int, int]]] = []
        self._act, self._at = act, at

    @property
    def patience(self) -> Patience:
        return Patience(seconds=0.1, first_wait=0.001, opened=self.opened)

    @property
    def fetched(self) -> list[int]:
        """The bytes that were fetched of each file."""
        return [sum(stop - start for start, stop in ranges) for ranges in self.files]

    def opened(self, url: str) -> PinnedFile:
        ranges: list[tuple[int, int]] = []
        self.files.append(ranges)

        def before(start: int, stop: int) -> None:
            if self._act is not None and sum(map(len, self.files)) == self._at:
                self._act()
            ranges.append((start, stop))

        return WatchedFile(opened(url), before)
