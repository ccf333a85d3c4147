"""How a stack is shown: a table for people, plain lines for logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {"ready": "green", "done": "green", "failed": "red", "restarting": "yellow", "starting": "yellow"}


def show(state: Mapping[str, Any]) -> RenderableType:
    """Draw a stack's state: addresses, parts, notes."""
    table = Table(box=None, header_style="bold")
    for heading in ("part", "state", "health", "pid", "port", "restarts", "up", "last exit"):
        table.add_column(heading, no_wrap=heading in ("part", "pid"))
    for part in state["parts"]:
        table.add_row(*_row(part))
    where = Text(f"Kafka {state['kafka']}   store {state['store']}   registry {state['registry']}   log {state['log']}")
    notes = [Text(f"note: {note}", style="yellow") for note in state["notes"]]
    return Group(Text(f"stack {state['state']}", style="bold"), where, table, *notes)


def _row(part: Mapping[str, Any]) -> list[RenderableType]:
    state, well = part["state"], part["health"] == ""
    up = _age(part["started_ms"]) if part["pid"] else ""
    condition = Text("") if state != "ready" else Text("well") if well else Text(part["health"], style="red")
    detail = f"{state} {part['detail']}".strip()
    return [
        Text(part["name"]),
        Text(detail, style=_STYLES.get(state, "")),
        condition,
        str(part["pid"] or ""),
        str(part["port"] or ""),
        str(part["restarts"]),
        up,
        Text(part["last_exit"]),
    ]


def _age(since_ms: int) -> str:
    return str(timedelta(seconds=max(0, time.time_ns() // 1_000_000 - since_ms) // 1000))
