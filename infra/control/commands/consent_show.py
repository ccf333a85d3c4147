"""`tidegate consent show` and `notice`: what was said, and what it was said to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from infra.addresses import Addresses
from infra.control.commands.cli_shared import AsJson, answer, moment, read_control, show_freshness
from infra.control.commands.consent_who import Subject, SubjectKey, Who
from infra.control.commands.consent_words import agrees, pause_of
from infra.control.commands.plain import columns, say
from infra.control.reader import wall_ms
from infra.control.records import ALL_PURPOSES, Policy, digest_of, notice_id
from infra.control.state import ControlState, View, Word
from infra.control.suggest import unknown
from infra.errors import TidegateError

_SHOWN = 12
"""Digits of a notice's digest that are shown; `consent notice` takes them too."""
_LEAST = 6
"""The fewest digits that stand for a digest."""
_LAPSED = "lapsed: the notice has changed"
_COUNTED = ("granted", "lapsed", "withdrawn")


class Notice(NamedTuple):
    """A notice that is, or was, in force."""

    version: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of its text, hex; empty where there is no text."""
        return digest_of(self.text)

    @property
    def name(self) -> str:
        """What a consent to it names."""
        return notice_id(self.version, self.digest)


def consent_show(subject_key: SubjectKey = None, subject: Subject = "", as_json: AsJson = False) -> None:
    """Show what one subject has said or, without a subject, how many have said what. Never lists who."""
    if subject_key is None and not subject:
        view = read_control(Addresses.load(), listen=True)
        counts, paused = _counts(view.state), _paused(view.state)
        document: dict[str, Any] = {"purposes": counts, "paused": paused, **_in_force(view.state.policy)}
        answer(as_json, document, lambda: _show_counts(counts, paused, view))
        return
    who = Who(subject_key, subject, "")
    view = read_control(Addresses.load(), listen=True, subjects=frozenset(who.subjects))
    rows, pause = _words(view.state, who.subjects[0]), pause_of(view.state, who.subjects[0], wall_ms())
    held = None if pause is None else {"at": pause.at, "until": pause.until}
    document = {"subject": who.subjects[0], "consents": rows, "pause": held, **_in_force(view.state.policy)}
    answer(as_json, document, lambda: _show_words(rows, pause, who.subjects[0], view))


def consent_notice(
    which: Annotated[
        str,
        typer.Argument(
            metavar="[VERSION|DIGEST]",
            help="Which one, by version or by the beginning of its digest. (default: the one in force)",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a notice in full: the one in force, or any that ever was, as people agreed to it."""
    state = read_control(Addresses.load(), subjects=frozenset()).state
    policy = state.policy
    if which:
        found = _find(state, which)
    elif policy is not None:
        found = Notice(policy.notice, policy.notice_text)
    else:
        raise TidegateError(f"no policy is in force, so no notice is either.{_others(state)}")
    in_force = policy is not None and policy.notice_id == found.name
    document = {"version": found.version, "digest": found.digest, "in_force": in_force, "text": found.text}
    answer(
        as_json, document, lambda: show_notice(found.version, found.text, "" if in_force else ", no longer in force")
    )


def show_notice(version: str, text: str, more: str = "") -> None:
    """Print a notice."""
    digest = digest_of(text)
    say([f"Notice {version}{more}; SHA-256 {digest or 'unknown: the policy does not hold its text'}", ""])
    say(line.expandtabs() for line in text.splitlines())


def check_notice(state: ControlState, policy: Policy, which: str) -> None:
    """Raise TidegateError unless the notice that somebody says they have read (if they do) is the one in force."""
    if not which or policy.notice_id in {found.name for found in _matching(state, which)}:
        return
    if not _matching(state, which):
        raise TidegateError(f"{_never(state, which)} Nothing was granted.")
    raise TidegateError(
        f"the notice in force is {_shown(Notice(policy.notice, policy.notice_text))}: a consent to {which} would allow "
        "nothing. Read it with `tidegate consent notice`, then leave --notice out."
    )


def _find(state: ControlState, which: str) -> Notice:
    found = _matching(state, which)
    if not found:
        raise TidegateError(f"{_never(state, which)} Only what was in force, in this life of the log, is kept.")
    if len(found) > 1:
        raise TidegateError(
            f"{len(found)} notices go by {which}. Say which, by digest: {', '.join(each.digest for each in found)}."
        )
    return found[0]


def _matching(state: ControlState, which: str) -> list[Notice]:
    """The notices of this version or, where there are none, those whose digest begins so."""
    known = _known(state)
    by_version = [each for each in known if which in (each.version, each.name)]
    digits = which.lower()
    return by_version or [each for each in known if len(digits) >= _LEAST and each.digest.startswith(digits)]


def _known(state: ControlState) -> list[Notice]:
    return [Notice(*each) for each in state.notices.values()]


def _never(state: ControlState, which: str) -> str:
    known = _known(state)
    return unknown("notice", which, dict.fromkeys([*(n.version for n in known), *(n.digest[:_SHOWN] for n in known)]))


def _others(state: ControlState) -> str:
    known = ", ".join(_shown(each) for each in _known(state))
    return f" Those that were: {known}." if known else " None ever was."


def _shown(notice: Notice) -> str:
    return f"{notice.version} ({notice.digest[:_SHOWN]})" if notice.digest else notice.version


def _in_force(policy: Policy | None) -> dict[str, str]:
    return {"notice": policy.notice if policy else "", "notice_digest": policy.notice_digest if policy else ""}


def _words(state: ControlState, subject: str) -> list[dict[str, Any]]:
    return [
        {
            "purpose": purpose,
            "granted": said.granted,
            **_named(state, said.notice),
            "at": said.at,
            "stands": agrees(said, state.policy),
        }
        for purpose, said in sorted(state.words_of(subject).items())
        if purpose != ALL_PURPOSES
    ]


def _named(state: ControlState, name: str) -> dict[str, str]:
    """What a word says of its notice: all of the digest where the notice was ever in force, else what it names."""
    if name in state.notices:
        found = Notice(*state.notices[name])
        return {"notice": found.version, "notice_digest": found.digest}
    version, _, digest = name.rpartition("#")
    return {"notice": version or digest, "notice_digest": digest if version else ""}


def _counts(state: ControlState) -> list[dict[str, Any]]:
    counts: dict[str, dict[str, int]] = {}
    for words in state.consents.values():
        for purpose, said in words.items():
            if purpose != ALL_PURPOSES:
                kind = "withdrawn" if not said.granted else "granted" if agrees(said, state.policy) else "lapsed"
                counts.setdefault(purpose, dict.fromkeys(_COUNTED, 0))[kind] += 1
    return [{"purpose": purpose, **numbers} for purpose, numbers in sorted(counts.items())]


def _paused(state: ControlState) -> int:
    now = wall_ms()
    return sum(pause_of(state, subject, now) is not None for subject in state.consents)


def _show_words(rows: Iterable[dict[str, Any]], pause: Word | None, subject: str, view: View) -> None:
    print(f"subject {subject}")
    made = [
        (
            row["purpose"],
            "granted" if row["granted"] else "withdrawn",
            f"{row['notice']} ({row['notice_digest'][:_SHOWN]})" if row["notice_digest"] else row["notice"],
            moment(row["at"]),
            _note(row, view.state.policy),
        )
        for row in rows
    ]
    if made:
        say(columns(("purpose", "said", "notice", "at", ""), made))
    else:
        print("This subject has consented to nothing, so nothing of theirs passes.")
    if pause is not None:
        end = f"until {moment(pause.until)}" if pause.until else "until `tidegate consent resume`"
        print(f"PAUSED since {moment(pause.at)}, {end}: nothing passes.")
    show_freshness(view)


def _note(row: Mapping[str, Any], policy: Policy | None) -> str:
    if not row["granted"]:
        return ""
    if not row["stands"]:
        return _LAPSED if policy is not None else "no policy is in force"
    return "" if policy is not None and policy.purpose(row["purpose"]) else "not in the policy in force"


def _show_counts(counts: list[dict[str, Any]], paused: int, view: View) -> None:
    if not counts:
        print("Nobody has consented to anything, so nothing passes.")
    else:
        say(columns(("purpose", *_COUNTED), ([str(value) for value in row.values()] for row in counts)))
    if paused:
        print(f"{paused} paused.")
    show_freshness(view)
