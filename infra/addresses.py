"""Where the broker, the registry and the store are.

A plain dataclass, not pydantic-settings: a recorded person's machine imports
this, and pydantic would take 10 of the 60 MB that a producer may use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import TidegateError

DEFAULT_HOME = ".tidegate"
STACK_FILE = "stack.json"

_KEYS = {
    "kafka": "TIDEGATE_KAFKA",
    "registry": "TIDEGATE_REGISTRY",
    "store": "TIDEGATE_STORE",
    "store_user": "TIDEGATE_STORE_USER",
    "store_password": "TIDEGATE_STORE_PASSWORD",
    "database": "TIDEGATE_DATABASE",
    "log": "TIDEGATE_LOG",
}
_DEFAULTS = {"store_user": "default", "store_password": "", "database": "tidegate", "log": "1"}


@dataclass(frozen=True, slots=True)
class Addresses:
    """One stack's addresses. An empty address means: not known."""

    home: Path
    kafka: str = ""
    """Bootstrap servers, `host:port[,host:port]`."""
    registry: str = ""
    """Schema Registry, a URL."""
    store: str = ""
    """ClickHouse's HTTP interface, a URL."""
    store_user: str = "default"
    store_password: str = field(default="", repr=False)
    database: str = "tidegate"
    log: str = "1"
    """Which life of the broker's log offsets belong to."""

    @classmethod
    def load(cls, home: Path | None = None, environ: Mapping[str, str] | None = None) -> Addresses:
        """Read the environment, then `<home>/stack.json`, then the defaults.

        Raises TidegateError when the file is there but cannot be read.
        """
        env = os.environ if environ is None else environ
        where = home if home is not None else Path(env.get("TIDEGATE_HOME", DEFAULT_HOME))
        written = _read_stack_file(where / STACK_FILE)
        values = {
            key: env.get(variable) or str(written.get(key) or _DEFAULTS.get(key, "")) for key, variable in _KEYS.items()
        }
        return cls(home=where, **values)

    def need(self, part: str) -> str:
        """Return the address of `kafka`, `registry` or `store`.

        Raises TidegateError, naming the setting, when it is not known.
        """
        value: str = getattr(self, part)
        if not value:
            raise TidegateError(
                f"no address for {part}: no stack is running in {self.home} and {_KEYS[part]} is not set. "
                f"Start one with `tidegate up --detach`, or set {_KEYS[part]}."
            )
        return value


def _read_stack_file(path: Path) -> Mapping[str, object]:
    try:
        loaded = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise TidegateError(f"{path.parent} cannot be a stack's home ({why}). Choose another --home.") from error
    except ValueError as error:
        raise TidegateError(
            f"{path} cannot be read ({error}). Run `tidegate down`, remove the file, and start again."
        ) from error
    if not isinstance(loaded, dict):
        raise TidegateError(f"{path} is not a JSON object. Remove it and run `tidegate up` again.")
    return loaded
