"""Who consents to what, by pseudonym: the minimiser's translation for the gates behind it. Pure.

Gates downstream know pseudonyms only, and the minimiser alone holds the key. So
it republishes control.consent on control.standing: a record for each pseudonym
of whom something was said, then the progress record, which those gates need to
be fresh. Any number of minimisers may do so at once: the translation is a
function of the control topics, and readers ignore one that lags.

A progress record speaks for all that stands on the topic, so it must hold for what
another minimiser wrote too. That may be a grant that this one has only read together
with its withdrawal: to it nothing has changed, and yet it must say so again.
"""

from __future__ import annotations

from infra.control.identity import pseudonym_of
from infra.control.records import CONSENT_TOPIC, SWITCH_TOPIC, Standing, Switch
from infra.control.state import ControlState, Words, standing_of

_Basis = tuple[tuple[str, ...], tuple[str, ...], Words, tuple[Switch, ...]]
"""What a standing says, and what it was made from: the subject's words and all switches over them, released or not."""


class Translator:
    """Remembers what was published and on what basis, so that nothing is published twice on the same one."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pseudonyms: dict[str, str] = {}
        self._offered: dict[str, _Basis] = {}
        self._published: dict[str, _Basis] = {}
        self._reached: tuple[int, int] | None = None

    def changes(self, state: ControlState, now_ms: int) -> list[Standing]:
        """Return what to publish now, in order: standings on a new basis, then the progress record where it moved.

        `now_ms` matters for consents and switches dated in the future, and for pauses that end.
        """
        records = []
        # Only these are over somebody; years of others would be gone through for each subject.
        over_some = [each for each in state.switches.values() if each.scope in ("subject", "team")]
        for subject, words in state.consents.items():
            record = self._standing(state, subject, now_ms)
            over = tuple(each for each in over_some if state.covers_subject(each, subject))
            basis = record.purposes, record.notices, words, over
            if self._published.get(record.pseudonym) != basis:
                self._offered[record.pseudonym] = basis
                records.append(record)
        if records or self.behind(state):
            consent, switch = _reached(state)
            records.append(Standing("", (), (), consent_offset=consent, switch_offset=switch))
        return records

    def behind(self, state: ControlState) -> bool:
        """Whether control.consent or control.switch has moved since the progress record that was published last."""
        return _reached(state) != self._reached

    def published(self, records: list[Standing]) -> None:
        """Note that the broker has these."""
        for record in records:
            if record.pseudonym:
                self._published[record.pseudonym] = self._offered[record.pseudonym]
            else:
                self._reached = (record.consent_offset, record.switch_offset)

    def _standing(self, state: ControlState, subject: str, now_ms: int) -> Standing:
        pseudonym = self._pseudonyms.get(subject)
        if pseudonym is None:
            pseudonym = self._pseudonyms[subject] = pseudonym_of(self._key, subject)
        return standing_of(state, subject, pseudonym, now_ms)


def _reached(state: ControlState) -> tuple[int, int]:
    return state.applied.get(CONSENT_TOPIC, -1), state.applied.get(SWITCH_TOPIC, -1)
