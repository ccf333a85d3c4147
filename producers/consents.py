"""Lets the people of a recording, or of a simulation, consent: their keys are at hand, so each signs for themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from infra.addresses import Addresses

ConsentTo = Annotated[
    list[str],
    typer.Option(
        "--consent",
        metavar="PURPOSE",
        help="Let them consent to this purpose first, each with their own key; again for another one.",
    ),
]


def let_consent(
    addresses: Addresses, keys: Iterable[bytes], purposes: Sequence[str], *, quiet: bool
) -> dict[str, dict[str, int]]:
    """Let those whose keys these are consent, say how many do, and return it for the summary; nothing without purposes.

    Raises TidegateError where no policy is in force, it does not have a purpose, or the broker does not answer.
    """
    if not purposes:
        return {}
    from infra.control.commands.consent_write import grant_own

    granted = grant_own(addresses, keys, purposes)
    if not quiet:
        before = f"; {granted.already:,} of these consents stood already" if granted.already else ""
        print(f"{granted.people:,} people consent to {' and '.join(purposes)}{before}.", file=sys.stderr)
    return {"consents": granted._asdict()}
