"""Trying again for ever, said once."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from infra import telemetry
from streams import patience
from streams.patience import Outage, Patience


def test_says_once_that_it_waits_and_once_that_it_is_over(capsys, monkeypatch):
    """Many failures make one line with the address and no traceback, and recovering makes one more."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)
    telemetry.configure("test")
    left, beats = [5], []

    async def attempt():
        if left[0]:
            left[0] -= 1
            raise OSError("no route to 10.0.0.7")
        return "done"

    outage = Outage("the store", "http://store:8123")
    waiting = Patience(outage, lambda e: isinstance(e, OSError), beat=lambda: beats.append(1))
    assert asyncio.run(waiting.do(attempt)) == "done"
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "info"]
    assert all(line["address"] == "http://store:8123" for line in lines)
    assert len(beats) == 5


def test_an_attempt_older_than_a_success_says_nothing(capsys):
    """While a service comes back, an attempt that hung since before does not make it go away again."""
    telemetry.configure("test")
    outage = Outage("the store", "http://store:8123")
    hung = time.monotonic()
    outage.failed(OSError(), hung)
    outage.worked()
    outage.failed(OSError(), hung)
    assert len(capsys.readouterr().err.splitlines()) == 2
    outage.failed(OSError(), time.monotonic())
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_another_error_passes_through():
    """What will not pass by waiting is not waited for."""

    async def attempt():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is the one
        asyncio.run(Patience(Outage("the store", ""), lambda e: isinstance(e, OSError)).do(attempt))
