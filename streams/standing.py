"""Who consents to what, by pseudonym: the minimiser's translation for the gates behind it. Pure.

Gates downstream know pseudonyms only, and the minimiser alone holds the key. So
it republishes control.consent on control.standing: a record for each pseudonym
whose standing has changed, then the progress record, which those gates need to
be fresh. Any number of minimisers may do so at once: the translation is a
function of the control topics, and readers ignore one that lags.
"""

from __future__ import annotations

from infra.control.identity import pseudonym_of
from infra.control.records import CONSENT_TOPIC, SWITCH_TOPIC, Standing
from infra.control.state import ControlState, standing_of


class Translator:
    """Remembers what was published, so that only changes are published again."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pseudonyms: dict[str, str] = {}
        self._published: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._reached: tuple[int, int] | None = None

    def changes(self, state: ControlState, now_ms: int) -> list[Standing]:
        """Return what to publish now, in order: changed standings, then the progress record where it moved.

        `now_ms` matters for consents and switches dated in the future.
        """
        records = [
            record
            for subject in state.consents
            if self._published.get((record := self._standing(state, subject, now_ms)).pseudonym)
            != (record.purposes, record.notices)
        ]
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
                self._published[record.pseudonym] = (record.purposes, record.notices)
            else:
                self._reached = (record.consent_offset, record.switch_offset)

    def _standing(self, state: ControlState, subject: str, now_ms: int) -> Standing:
        pseudonym = self._pseudonyms.get(subject)
        if pseudonym is None:
            pseudonym = self._pseudonyms[subject] = pseudonym_of(self._key, subject)
        return standing_of(state, subject, pseudonym, now_ms)


def _reached(state: ControlState) -> tuple[int, int]:
    return state.applied.get(CONSENT_TOPIC, -1), state.applied.get(SWITCH_TOPIC, -1)
