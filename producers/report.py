"""What a producer says at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """What became of everything that a producer captured."""

    captured: int = 0
    sent: int = 0
    """Events of batches that Kafka acknowledged, those of an earlier start's spool among them."""
    batches: int = 0
    """Batches that Kafka acknowledged."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Events dropped, by reason."""
    spooled: int = 0
    """Batches that stay on disk for the next start."""
    unsent: int = 0
    """Batches that were neither sent nor spooled when the time was up."""
    spool_damage_bytes: int = 0
    """What of an earlier start's spool was unreadable."""

    @property
    def complete(self) -> bool:
        """Whether Kafka has everything that was not dropped."""
        return not self.spooled and not self.unsent

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self) | {"complete": self.complete}
