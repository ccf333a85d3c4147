"""Whom a consent command is about: oneself, by one's key, or others, by identifier."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from infra.control import keyring, signing
from infra.control.commands.consent_words import subjects_in
from infra.control.identity import create_key, load_key, new_key, subject_of
from infra.control.records import Consent
from infra.control.state import ControlState
from infra.errors import TidegateError

SubjectKey = Annotated[Path | None, typer.Option(help="Your key file: you are who holds it.", show_default=False)]
Subject = Annotated[str, typer.Option(help="Somebody else, by identifier: 32 hex digits.", show_default=False)]
SubjectFile = Annotated[
    str,
    typer.Option("--file", help="Many others: identifiers, one a line; `-` reads them from stdin.", show_default=False),
]


class Who:
    """Whose words are to be written.

    Raises TidegateError unless exactly one way of saying it is used, and for a key
    or a list that cannot be used. `create` makes a key where the file is not there; `keep_key` writes it.
    """

    def __init__(self, path: Path | None, subject: str, file: str, *, create: bool = False) -> None:
        if sum(bool(way) for way in (path, subject, file)) != 1:
            raise TidegateError("say who: one of --subject-key FILE, --subject ID or --file FILE.", code=2)
        self._new = path if path is not None and create and not path.exists() else None
        self.key: bytes | None = None
        """One's own key; None where it is about others."""
        if path is not None:
            self.key = new_key() if self._new else load_key(path)
            self.subjects = [subject_of(self.key)]
        else:
            self.subjects = subjects_in([subject], "--subject") if subject else _listed(file)

    @property
    def own(self) -> bool:
        """Whether somebody speaks for themselves."""
        return self.key is not None

    def keep_key(self) -> None:
        """Write a key that was made now to its file. Raises TidegateError when that is not possible."""
        if self._new is not None and self.key is not None:
            create_key(self._new, self.key)

    def sign(self, records: Sequence[Consent], log: str) -> list[Consent]:
        """Return the records, signed where they are one's own."""
        return list(records) if self.key is None else [signing.sign(record, log, self.key) for record in records]

    def keep_apart(self, state: ControlState) -> None:
        """Raise TidegateError for a key that a policy names: everybody could tell whose words these are."""
        named = {approver.key for _, approvers in state.approvers for approver in approvers}
        if self.key is not None and signing.public_of(self.key) in named:
            raise TidegateError(
                "this key stands in the policy as an approver's, by name, so everybody could tell whose consent this "
                "is. Use another one: --subject-key FILE --create-key makes it."
            )


def approvers_keys(keys: Sequence[str], *, own: bool) -> list[bytes]:
    """Return the keys of approvers, which others' words need and one's own do not.

    Raises TidegateError where that does not fit, and as `keyring.load` does.
    """
    if own and keys:
        raise TidegateError("--key is an approver's, for others' words: your own takes --subject-key alone.", code=2)
    if not own and not keys:
        raise TidegateError(
            "to allow something for somebody else takes the keys of two approvers: --key NAME --key NAME or, with one "
            "--key each, two people one after the other. Nothing was changed.",
            code=2,
        )
    return keyring.load(keys)


def _listed(file: str) -> list[str]:
    if file == "-":
        return subjects_in(sys.stdin.read().splitlines(), "stdin")
    try:
        return subjects_in(Path(file).read_text(encoding="utf-8").splitlines(), file)
    except (OSError, ValueError) as error:
        raise TidegateError(f"cannot read {file}: it is not there, not readable, or not text.") from error
