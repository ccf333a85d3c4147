"""Why an event was not let through.

The one list of reasons: gates, producers, the books and the tables use these
words and no others. `REASONS[code]` is the reason of a code; code 0 means passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PASS = ""
"""Not refused."""

STALE = "stale"
"""The control state was not fresh: no recent heartbeat, or not everything it names was applied."""
NO_POLICY = "no_policy"
"""No policy was in force."""
POLICY_EXPIRED = "policy_expired"
"""The policy had run out."""
POLICY_NOT_YET = "policy_not_yet"
"""The policy's validity had not begun."""
NO_CONSENT = "no_consent"
"""The subject had consented to none of the policy's purposes."""
NOTICE_CHANGED = "notice_changed"
"""The subject had consented, but under another version of the notice."""
SWITCH = "switch"
"""An engaged switch covered it."""
PAUSED = "paused"
"""The subject had paused."""
SOURCE_NOT_ALLOWED = "source_not_allowed"
"""No purpose that the subject had consented to may use this source."""
EPOCH = "epoch"
"""Captured before the last release: what was captured while stopped is never let in."""
FUTURE = "future"
"""Dated further after its message's append time than the policy tolerates."""
MALFORMED = "malformed"
"""Could not be read."""
BUFFER_FULL = "buffer_full"
"""The producer's memory was full."""
SPOOL_FULL = "spool_full"
"""The producer's spool on disk was full."""
UNDELIVERABLE = "undeliverable"
"""The producer ended before it could hand the event over."""

REASONS: tuple[str, ...] = (
    PASS,
    STALE,
    NO_POLICY,
    POLICY_EXPIRED,
    POLICY_NOT_YET,
    NO_CONSENT,
    NOTICE_CHANGED,
    SWITCH,
    SOURCE_NOT_ALLOWED,
    EPOCH,
    FUTURE,
    MALFORMED,
    BUFFER_FULL,
    SPOOL_FULL,
    UNDELIVERABLE,
    PAUSED,
)
"""Reasons by code. Codes stay inside a process; on the wire and in tables stands the word."""

OF_A_PERSON = frozenset({NO_CONSENT, NOTICE_CHANGED, PAUSED, SWITCH, SOURCE_NOT_ALLOWED})
"""Reasons that may tell what a person said, or what was said of them: a switch may be over one subject, and a source
may be refused because of what was allowed. They are shown of nobody alone."""
REFUSED = "refused"
"""All of them in one, where what is counted may be one person's."""

CODES: Mapping[str, int] = MappingProxyType({reason: code for code, reason in enumerate(REASONS)})
"""Codes by reason."""
