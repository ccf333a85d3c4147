"""What is still on its way under an earlier view: so that an acknowledgement means that it is over.

A gate that has read a switch may still be storing what it judged a moment before.
So whoever judges, enters; whoever has seen the outcome (the INSERT confirmed,
the message taken by the broker, or neither ever sent), leaves; and a gate
acknowledges no offset that something under way has not been judged by.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from infra.control.records import CONSENT_TOPIC
from infra.control.state import ControlState, View


class Passage:
    """Something under way, judged by `view`. Leave it when its outcome is known; leaving twice does no harm."""

    __slots__ = ("_number", "_passages", "view")

    def __init__(self, passages: Passages, number: int, view: View) -> None:
        self._passages = passages
        self._number = number
        self.view = view

    def leave(self) -> None:
        """Say that nothing judged by this view is on its way any more."""
        self._passages._leave(self._number)

    def __enter__(self) -> Passage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()


def _reached(state: ControlState) -> Mapping[str, int]:
    """Return the offsets gone by; what a gate of pseudonyms knows of consents is what was translated for it."""
    if state.mode != "standing":
        return state.applied
    return {**state.applied, CONSENT_TOPIC: state.consent_reached}


class Passages:
    """All that is under way in one process. Any thread may enter and leave."""

    def __init__(self, view: Callable[[], View]) -> None:
        """`view` returns the latest view; it never goes back."""
        # Held while a view is taken: or one could be taken, a later one acknowledged, and the first then entered.
        self._lock = threading.Lock()
        self._view = view
        self._numbers = itertools.count()
        self._under_way: dict[int, View] = {}
        self._changed = threading.Event()

    def enter(self) -> Passage:
        """Begin to judge by the view of this moment."""
        with self._lock:
            number, view = next(self._numbers), self._view()
            self._under_way[number] = view
        return Passage(self, number, view)

    def settled(self) -> tuple[View, dict[str, int]]:
        """Return the latest view and, by control topic, the last offset that all under way, and all to come, go by.

        What was judged by another log settles nothing.
        """
        with self._lock:
            latest = self._view()
            views = [latest, *self._under_way.values()]
        reached = [_reached(each.state) for each in views]
        if any(each.state.log != latest.state.log for each in views):
            return latest, dict.fromkeys(reached[0], -1)
        return latest, {topic: min(each.get(topic, -1) for each in reached) for topic in reached[0]}

    @property
    def open(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    def wait(self, timeout: float) -> None:
        """Wait until something has left, or `nudge`, since the last wait; at most `timeout` seconds."""
        self._changed.wait(timeout)
        self._changed.clear()

    def nudge(self) -> None:
        """End a wait."""
        self._changed.set()

    def _leave(self, number: int) -> None:
        with self._lock:
            self._under_way.pop(number, None)
        self._changed.set()
