"""A worker whose control reader a test can hold: `python -m tests.faults.stop.held window --metrics-port 0`.

All else is `tidegate stream`. While the file that HELD names is there, the reader's
thread stays in the first message that it takes, as one would that is stuck in a
call; `<file>.stuck` says that it is.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

from infra.control.reader import ControlReader
from streams.stream_cli import stream

_POLL_S = 0.005


def main() -> None:
    """Run the worker."""
    held = Path(os.environ["HELD"])
    stuck = stuck_file(held)
    take = ControlReader._take

    def slowly(self: ControlReader, messages: Any) -> None:
        while held.exists():
            stuck.touch()
            # time.sleep waits by an absolute time, which libfaketime now and then gets wrong: EINVAL.
            select.select((), (), (), _POLL_S)
        take(self, messages)

    ControlReader._take = slowly  # type: ignore[method-assign]
    stream()


def stuck_file(held: Path) -> Path:
    """Where a reader says that it is stuck."""
    return held.with_suffix(".stuck")


if __name__ == "__main__":
    main()
