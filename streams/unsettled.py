"""INSERTs of which nobody knows what became of them, and the passages that they keep open.

A connection that is lost after the request was sent says nothing: the rows may
be stored, or may yet be. Saying that a switch is applied would then be a lie. So
the passage in which such rows were judged stays open until the store has
confirmed an INSERT under the same token, be it of this worker (again, judged
anew) or of the one that has the partition now: a token is stored once, so
nothing can land after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from infra.control.passages import Passage
from infra.store import StoreError
from streams.data import ClosedSlot


class _Open(NamedTuple):
    partition: int
    token: str
    closes_at: int
    passage: Passage


class Unsettled:
    """Those of one process. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[_Open] = []

    def insert(self, partition: int, slot: ClosedSlot, passage: Passage, attempt: Callable[[], None]) -> None:
        """Make `attempt`, the INSERT of a slot that was judged in `passage`, once, and raise what it raises.

        Leaves the passage when it is known what became of the rows, and with it,
        when they are stored, those of every attempt under the same token.
        """
        over = False
        try:
            attempt()
            over = True
        except StoreError as error:
            over = error.over
            raise
        finally:
            if over:
                passage.leave()
            else:
                with self._lock:
                    self._open.append(_Open(partition, slot.token, slot.key.closes_at, passage))
        self._leave(lambda each: each.token == slot.token)

    def stored_through(self, partition: int, closed_through: int) -> None:
        """Leave what the ledger of a partition says is stored by now, whoever stored it."""
        self._leave(lambda each: each.partition == partition and each.closes_at <= closed_through)

    def partitions(self) -> set[int]:
        """Return the partitions that something is open of."""
        with self._lock:
            return {each.partition for each in self._open}

    def _leave(self, settled: Callable[[_Open], bool]) -> None:
        with self._lock:
            left = [each for each in self._open if settled(each)]
            self._open = [each for each in self._open if not settled(each)]
        for each in left:
            each.passage.leave()
