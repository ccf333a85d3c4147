"""What the control commands share: reading the control topics to their end, and printing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from infra.addresses import Addresses
from infra.control import readable
from infra.control.reader import ControlReader
from infra.control.state import View
from infra.errors import TidegateError

ANSWER_SECONDS = 1.2
"""How long a broker may take to answer anything at all before it is said to be silent: 2 s with the start of Python."""
READ_SECONDS = 10.0
"""How long the control topics may then take to be read to their end: a machine under load takes its time."""
HEARTBEAT_SECONDS = 1.0
"""How long to listen for the authority: five heartbeats."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
By = Annotated[str, typer.Option("--by", help="Who does it, as others shall see it. (default: your user name)")]


Keys = Annotated[list[str], typer.Option("--key", help="An approver's key, by name or file; again for a second one.")]


def read_control(addresses: Addresses, *, listen: bool = False, subjects: frozenset[str] | None = None) -> View:
    """Read the control topics to their end; `listen` for the authority too, so as to say whether it agrees.

    `subjects` limits whose consents are looked at. The end of a topic is what the
    broker names with each fetch, which holds on every broker, unlike a look-up of
    end offsets.
    """
    with ControlReader(addresses, "consent", subjects=subjects) as reader:
        view = read_through(reader, addresses)
        return reader.wait_fresh(HEARTBEAT_SECONDS) if listen else view


def read_through(reader: ControlReader, addresses: Addresses) -> View:
    """Wait until a reader has read its topics to their end. Raises TidegateError, in time where nothing answers."""
    view = reader.wait_for(lambda _: reader.read_to_end or reader.answered, ANSWER_SECONDS)
    if not reader.answered:
        raise TidegateError(
            f"the broker at {addresses.kafka} did not answer within {ANSWER_SECONDS:g} s "
            f"({reader.trouble or 'no answer'}). See whether it runs with `tidegate status`; "
            "TIDEGATE_KAFKA or --home names another."
        )
    view = reader.wait_for(lambda _: reader.read_to_end or bool(reader.trouble), READ_SECONDS)
    if not reader.read_to_end:
        # Trouble passes within a moment where a broker has just come up.
        view = reader.wait_for(lambda _: reader.read_to_end, ANSWER_SECONDS)
    if not reader.read_to_end:
        raise TidegateError(
            f"the control topics at {addresses.kafka} could not be read to their end "
            f"({reader.trouble or 'no answer'}). See whether the broker runs with `tidegate status`; "
            "`tidegate topics apply` creates topics that are missing."
        )
    return view


def moment(ms: int) -> str:
    """Return UTC epoch ms as people read it."""
    return readable.moment(ms)


def answer(as_json: bool, document: object, told: Callable[[], None]) -> None:
    """Print the document, or let `told` tell a person."""
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        told()


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; rich leaves out colours where there is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # what people wrote is no markup
    Console(highlight=False).print(made)


def show_freshness(view: View) -> None:
    """Say when gates are closed because no authority vouches for what was read."""
    if not view.fresh:
        print(f"Gates are closed, and this is as far as the log could be read: {view.why}.")
