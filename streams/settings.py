"""What a stream worker may be told, read from the environment once and passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.control.identity import load_key
from infra.errors import TidegateError


class WorkerSettings(BaseSettings):
    """Settings of `tidegate stream …`; each can be set as TIDEGATE_<NAME>. Addresses: infra.addresses."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", frozen=True, extra="ignore")

    pseudonym_key: Path | None = None
    """File with the key that subjects' pseudonyms are made with; `<home>/keys/pseudonym.key` where not set."""
    session_timeout_seconds: float = Field(default=6.0, ge=6.0, le=60.0)
    """After this long without a heartbeat the group gives a worker's partitions to others. Kafka takes no less than
    6 s by default, and the embedded broker makes every group join wait half of it."""
    tick_after_ms: int = Field(default=3_000, ge=2_000)
    """A raw partition that was quiet this long gets ticks, so that its last windows close. Faust lets the broker hold
    a fetch for 1.5 s, and the partition is looked at each second: less than 2.5 s would make ticks rare."""
    flush_seconds: float = Field(default=1.0, ge=0.05, le=60.0)
    """How often the windower writes: ClickHouse wants about one INSERT a second and table."""
    stalled_after_seconds: float = Field(default=30.0, gt=0.0)
    """/healthz reports a partition whose loop has not gone round for so long."""
    accept_gap: bool = False
    """Go on where the broker's log begins when the messages to resume from are gone for good."""
    fault: Literal["", "after_insert"] = ""
    """For tests alone: `after_insert` ends the process between the INSERT of a slot and the ledger row."""

    @classmethod
    def from_environment(cls) -> WorkerSettings:
        """Read the environment. Raises TidegateError that names each wrong variable."""
        try:
            return cls()
        except ValidationError as error:
            wrong = "; ".join(f"TIDEGATE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            raise TidegateError(f"wrong settings: {wrong}.", code=2) from error


def read_pseudonym_key(path: Path) -> bytes:
    """Return the key that pseudonyms are made with. The minimiser alone may read it.

    Raises TidegateError when the file is missing, is not 32 bytes, or is open to others.
    """
    if not path.exists():
        raise TidegateError(
            f"there is no pseudonym key {path}. `tidegate up` makes one; elsewhere set TIDEGATE_PSEUDONYM_KEY "
            "to a file of 32 random bytes that only the minimiser may read."
        )
    return load_key(path)
