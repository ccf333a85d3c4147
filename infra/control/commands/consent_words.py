"""What subjects say, as records that nobody has signed yet, and how people write whom and when. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from infra.control.identity import is_subject
from infra.control.records import ALL_PURPOSES, CONSENT_TOPIC, Consent, Policy, key_of
from infra.control.state import ControlState, Word
from infra.control.suggest import unknown
from infra.errors import TidegateError

_LONGEST_PAUSE_MS = 3650 * 86_400_000
_UNITS = {"s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def word(state: ControlState, subject: str, purpose: str, *, granted: bool, now_ms: int, until: int = 0) -> Consent:
    """Return one subject's next word, later than their last; a grant names the notice in force. Times are epoch ms.

    Where the same word waits for an approver's signature, it comes with the date of that one.
    """
    last, policy = state.words_of(subject).get(purpose), state.policy
    agrees = granted and purpose != ALL_PURPOSES and policy is not None
    said = Consent(
        subject=subject,
        purpose=purpose,
        granted=granted,
        notice=policy.notice if agrees and policy else "",
        at=now_ms if last is None else max(now_ms, last.at + 1),
        notice_digest=policy.notice_digest if agrees and policy else "",
        until=until,
    )
    waiting = state.pending.get((CONSENT_TOPIC, key_of(said)))
    if isinstance(waiting, Consent) and replace(waiting, at=said.at, signatures=()) == said:
        return replace(said, at=max(waiting.at, last.at + 1 if last else 0))
    return said


def policy_for(state: ControlState, purposes: Iterable[str]) -> Policy:
    """Return the policy in force. Raises TidegateError where there is none, or it does not have a purpose."""
    policy = state.policy
    if policy is None:
        raise TidegateError(
            "no policy is in force, so there is no purpose to consent to. Apply one with `tidegate policy apply FILE`."
        )
    names = [rule.name for rule in policy.purposes]
    for purpose in purposes:
        if purpose not in names:
            raise TidegateError(f"{unknown('purpose', purpose, names)} Nobody's consent was changed.")
    return policy


def agrees(said: Word | None, policy: Policy | None) -> bool:
    """Whether a word allows its purpose under the notice in force."""
    return said is not None and said.granted and policy is not None and said.notice == policy.notice_id


def said_by(state: ControlState, subject: str) -> list[str]:
    """Return the purposes of which a subject has said anything, or of which something waits to be said for them."""
    waiting = {
        record.purpose for record in state.pending.values() if isinstance(record, Consent) and record.subject == subject
    }
    return sorted({*state.words_of(subject), *waiting} - {ALL_PURPOSES})


def pause_of(state: ControlState, subject: str, now_ms: int) -> Word | None:
    """Return the pause that holds for a subject at a moment (UTC epoch ms), or None."""
    said = state.words_of(subject).get(ALL_PURPOSES)
    return said if said is not None and said.pauses(now_ms) else None


def outlasts(pause: Word | None, until: int) -> bool:
    """Whether a pause that holds is longer than one that ends at `until` (UTC epoch ms; 0 for never)."""
    return pause is not None and bool(until) and (not pause.until or until < pause.until)


def pause_end(lasting: str, until: str, now_ms: int) -> int:
    """Return when a pause ends (UTC epoch ms; 0 for not by itself) from what was said of its length or its end.

    Raises TidegateError for what is neither, and for an end that has passed.
    """
    if lasting and until:
        raise TidegateError("--for and --until exclude each other: say how long, or until when.", code=2)
    if not lasting and not until:
        return 0
    end = now_ms + _duration_ms(lasting) if lasting else _moment_ms(until)
    if end <= now_ms:
        option = f"--for {lasting}" if lasting else f"--until {until}"
        raise TidegateError(f"{option} ends the pause before it begins. Nothing was changed.", code=2)
    if end > now_ms + _LONGEST_PAUSE_MS:
        raise TidegateError("a pause of over ten years is one without an end: leave --for and --until out.", code=2)
    return end


def _duration_ms(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)", text.strip(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise TidegateError(
            f"--for {text!r} is no duration: write a number and one of {', '.join(_UNITS)}, such as 30m.", code=2
        )
    return round(float(match[1]) * _UNITS[match[2]])


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise TidegateError(f"--until {text!r} is no moment: write it like 2026-11-22T18:00Z.", code=2) from None
    if moment.tzinfo is None:
        raise TidegateError(
            f"--until {text!r} does not say in which zone: write Z behind it for UTC, or an offset such as +01:00.",
            code=2,
        )
    return round(moment.timestamp() * 1000)


def subjects_in(lines: Sequence[str], where: str) -> list[str]:
    """Return the subjects that stand in `lines`, one a line, each once.

    Raises TidegateError, naming the line and not what stands in it, which may be a name.
    """
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if not is_subject(line):
            place = where if len(lines) == 1 and where.startswith("--") else f"line {number} of {where}"
            raise TidegateError(f"{place} is not a subject identifier: those are 32 hex digits. Nothing was changed.")
    if not found:
        raise TidegateError(f"{where} names no subject. Nothing was changed.")
    return list(dict.fromkeys(line for _, line in found))
