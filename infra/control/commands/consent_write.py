"""Writes what subjects say, makes sure that gates take it, and waits until they go by it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

from infra.addresses import Addresses
from infra.control import signing
from infra.control.acks import AckWatch
from infra.control.approval import Approval, endorse
from infra.control.commands.answers_shown import progress
from infra.control.commands.cli_shared import read_through
from infra.control.commands.consent_words import agrees, policy_for, word
from infra.control.identity import subject_of
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import CONSENT_TOPIC, Consent, key_of
from infra.control.roll import Answers
from infra.control.state import ControlState
from infra.control.writer import ControlWriter, Written
from infra.errors import TidegateError

WORKERS = ("minimiser", "windower")
"""Whose gates are waited for. A producer says nothing of consents, or it would be seen whose word it has just read."""
_TAKEN_SECONDS = 5.0
"""How long reading back what was written may take."""


class ConsentTopic:
    """control.consent, open to be read and written for some subjects; nobody else's words are looked at.

    `watch` listens to the gates too. Entering it raises TidegateError where the
    broker does not answer.
    """

    def __init__(self, addresses: Addresses, subjects: Collection[str], *, watch: bool = False) -> None:
        self._addresses, self._subjects = addresses, frozenset(subjects)
        self._open = ExitStack()
        self._wants_watch = watch

    def __enter__(self) -> ConsentTopic:
        with self._open as opening:
            self._watch = opening.enter_context(AckWatch(self._addresses)) if self._wants_watch else None
            self._reader = opening.enter_context(ControlReader(self._addresses, "consent", subjects=self._subjects))
            self._writer = opening.enter_context(ControlWriter(self._addresses))
            self.state: ControlState = read_through(self._reader, self._addresses).state
            self._open = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def write(self, records: Sequence[Consent]) -> Written:
        """Write records, at least one; returns how the first was written, with the offset of the last."""
        written = self._writer.put(*records)
        return written[0]._replace(offset=max(each.offset for each in written))

    def allow(self, records: Sequence[Consent]) -> Written:
        """Write records that allow more; returns and raises as `write` and `make_sure` do."""
        written = self.write(records)
        self.make_sure(records, written)
        return written

    def make_sure(self, records: Sequence[Consent], written: Written) -> None:
        """Raise TidegateError, saying why, where gates ignore one of the records that were written."""
        before = self.state
        self.state = self._reader.wait_for(lambda view: _reached(view.state, written), _TAKEN_SECONDS).state
        ignored = sum(not _was_taken(self.state, record) for record in records)
        if not ignored:
            return
        if not _reached(self.state, written):
            raise TidegateError("it is written, but could not be read back yet: see `tidegate consent show`.")
        future = (CONSENT_TOPIC, "future")
        why = (
            "this machine's clock is ahead of the broker's: set it right"
            if self.state.ignored.get(future, 0) > before.ignored.get(future, 0)
            else "the policy, or what was said before, changed in the same moment: see `tidegate consent show`"
        )
        raise TidegateError(f"no gate goes by {ignored} of the {len(records)} words that were written; {why}.")

    def wait(self, written: Written, seconds: float) -> Answers:
        """Wait, at most so long, until every worker's gate goes by what was written. Needs `watch`."""
        assert self._watch is not None  # noqa: S101 - asked for when this was made
        with progress() as told:
            return self._watch.wait_applied(
                CONSENT_TOPIC, written.offset, timeout=seconds, roles=WORKERS, written=written, on_progress=told
            )

    def approve(self, records: Sequence[Consent], seeds: Sequence[bytes]) -> list[Approval]:
        """Sign others' words with approvers' keys and write them; return how far those have come that lack a signature.

        Raises TidegateError for a key that is no approver's, and where gates ignore what has all it needs.
        """
        now = wall_ms()
        signed = [endorse(record, self.state, seeds, now) for record in records]
        # Signed by the same person again, it says nothing new.
        new = [record for record, _ in signed if self.state.pending.get((CONSENT_TOPIC, key_of(record))) != record]
        if new:
            written = self.write(new)
            self.make_sure([record for record, approval in signed if approval.enough], written)
        return [approval for _, approval in signed if not approval.enough]


class Granted(NamedTuple):
    """What came of people consenting with their own keys."""

    people: int
    written: int
    """Consents that were written: one a person and purpose."""
    already: int
    """Consents that stood already."""


def grant_own(addresses: Addresses, keys: Iterable[bytes], purposes: Iterable[str]) -> Granted:
    """Let those whose keys these are (32 bytes each) consent to purposes, each signing for themselves.

    Raises TidegateError where no policy is in force, it does not have a purpose, or the broker does not answer.
    """
    by_subject = {subject_of(key): key for key in keys}
    wanted = list(dict.fromkeys(purposes))
    with ConsentTopic(addresses, by_subject) as topic:
        state = topic.state
        policy, now = policy_for(state, wanted), wall_ms()
        records = [
            signing.sign(word(state, subject, purpose, granted=True, now_ms=now), state.log, key)
            for subject, key in by_subject.items()
            for purpose in wanted
            if not agrees(state.words_of(subject).get(purpose), policy)
        ]
        if records:
            topic.allow(records)
    return Granted(len(by_subject), len(records), len(by_subject) * len(wanted) - len(records))


def _reached(state: ControlState, written: Written) -> bool:
    return state.applied.get(CONSENT_TOPIC, -1) >= written.offset


def _was_taken(state: ControlState, record: Consent) -> bool:
    said = state.words_of(record.subject).get(record.purpose)
    return said is not None and said.at >= record.at
