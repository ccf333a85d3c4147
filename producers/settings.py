"""What a producer may be told. A plain dataclass: pydantic would take 10 of the 60 MB that a producer may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TOPIC = "interactions.raw"
SCHEMA = "interaction_batch"


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """One producer process. The defaults suit one recorded person's machine."""

    batch_events: int = 64
    """A batch is cut at this many events (about 1 KB), and a message never holds more."""
    batch_age_s: float = 0.5
    """... or when its oldest event has waited this long."""
    buffer_events: int = 10_000
    """Events a recorder holds before its thread takes them: 10 s at 1,000 a second, about 3 MB. More are refused."""
    inbox_bytes: int = 4 << 20
    """Encoded batches that wait in memory for the publisher."""
    unacknowledged_bytes: int = 4 << 20
    """Batches handed to librdkafka and not acknowledged. They are in memory twice, here (for the spool) and there:
    together with the inbox 12 MB of the 60 that a producer may use."""
    queue_kbytes: int = 16 << 10
    """librdkafka's own bound, which the one above keeps from being reached."""
    linger_ms: int = 20
    delivery_timeout_ms: int = 10_000
    """A batch that the broker has not taken by then goes to the spool. A leader election takes 2 to 6 s; ten leave
    room for one, and are little against the hours that raw records live."""
    spool_bytes: int = 64 << 20
    """What the spool may take on disk: at 13 bytes an event about 4 million events."""
    when_full: Literal["drop", "wait"] = "drop"
    """`drop` refuses the newest and counts it; `wait` holds the source back, which suits recordings, never people."""
    gate_tick_s: float = 0.05
    """How often the gate is looked at when nothing is heard: the part a producer adds to the time after which
    silence closes it. What is heard on a control topic is looked at at once."""
    gate_valid_s: float = 1.0
    """A look at the gate counts for this long. A producer whose own thread is stuck stops capturing by then."""


def spool_root(home: Path) -> Path:
    """Return the folder that holds the spools of a home's producers."""
    return home / "spool"
