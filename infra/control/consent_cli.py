"""`tidegate consent`: what subjects allow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control.cli_shared import AsJson, answer, moment, read_control, show_freshness, table
from infra.control.identity import is_subject, load_key, load_or_create_key, subject_of
from infra.control.reader import wall_ms
from infra.control.records import Consent
from infra.control.state import View
from infra.control.suggest import unknown
from infra.control.writer import ControlWriter
from infra.errors import TidegateError

consent = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What a subject allows, purpose by purpose. Nothing is allowed unsaid.",
)


Purpose = Annotated[str, typer.Option("--purpose", help="Which purpose; `tidegate policy show` lists them.")]
SubjectKey = Annotated[Path | None, typer.Option(help="The subject's key file: you are who holds it.")]
Subject = Annotated[str, typer.Option(help="The subject by identifier, 32 hex digits.")]
SubjectFile = Annotated[str, typer.Option("--file", help="Many subjects: identifiers, one a line; `-` reads stdin.")]


@consent.command("grant")
def consent_grant(
    purpose: Purpose,
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    create: Annotated[bool, typer.Option("--create-key", help="Make the key file if it is not there.")] = False,
    notice: Annotated[str, typer.Option(help="The notice that was read. (default: the one in force)")] = "",
    as_json: AsJson = False,
) -> None:
    """Allow one purpose, under the notice in force."""
    subjects = _subjects(subject_key, subject, file, create)
    addresses = Addresses.load()
    view = read_control(addresses)
    in_force = view.state.policy
    if in_force is None:
        raise TidegateError(
            "no policy is in force, so there is no purpose to consent to. Apply one with `tidegate policy apply FILE`."
        )
    if in_force.purpose(purpose) is None:
        names = [rule.name for rule in in_force.purposes]
        raise TidegateError(f"{unknown('purpose', purpose, names)} Nobody's consent was changed.")
    if notice and notice != in_force.notice:
        raise TidegateError(
            f"the notice in force is version {in_force.notice}: a consent to version {notice} would allow nothing. "
            "Read the one in force, then leave --notice out."
        )
    _say(addresses, subjects, [purpose], True, in_force.notice, as_json)


@consent.command("withdraw")
def consent_withdraw(
    purpose: Annotated[str, typer.Option("--purpose", help="Which purpose. (default: all of them)")] = "",
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    as_json: AsJson = False,
) -> None:
    """Take a consent back. Needs nobody's permission; it holds as soon as it is written."""
    subjects = _subjects(subject_key, subject, file, create=False)
    addresses = Addresses.load()
    state = read_control(addresses).state
    said = {name for each in subjects for name in state.words_of(each)}
    known = sorted(said.union(rule.name for rule in state.policy.purposes) if state.policy else said)
    if purpose and purpose not in known:
        raise TidegateError(f"{unknown('purpose', purpose, known)} Nothing was withdrawn.")
    if not purpose and not said:
        raise TidegateError("there is no consent to withdraw: nothing was ever said for this subject.")
    _say(addresses, subjects, [purpose] if purpose else sorted(said), False, "", as_json)


@consent.command("show")
def consent_show(subject_key: SubjectKey = None, subject: Subject = "", as_json: AsJson = False) -> None:
    """Show what one subject has said or, without a subject, how many have said what. Never lists who."""
    chosen = _subjects(subject_key, subject, "", create=False) if subject_key or subject else None
    view = read_control(Addresses.load(), listen=True)
    notice = view.state.policy.notice if view.state.policy else ""
    if chosen:
        words = view.state.words_of(chosen[0])
        rows = [
            {
                "purpose": purpose,
                "granted": word.granted,
                "notice": word.notice,
                "at": word.at,
                "stands": word.granted and word.notice == notice,
            }
            for purpose, word in sorted(words.items())
        ]
        answer(as_json, {"consents": rows, "notice": notice}, lambda: _show_words(rows, view))
        return
    counts = _count_words(view, notice)
    answer(as_json, {"purposes": counts, "notice": notice}, lambda: _show_counts(counts, view))


def _subjects(key: Path | None, subject: str, file: str, create: bool) -> list[str]:
    if sum(bool(way) for way in (key, subject, file)) != 1:
        raise TidegateError("say who: one of --subject-key FILE, --subject ID or --file FILE.", code=2)
    if key is not None:
        return [subject_of(load_or_create_key(key) if create else load_key(key))]
    if subject:
        lines, where = [subject], "--subject"
    else:
        lines, where = _lines(file), "stdin" if file == "-" else file
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if not is_subject(line):
            place = f"line {number} of {where}" if file else where
            raise TidegateError(f"{place} is not a subject identifier: those are 32 hex digits. Nothing was changed.")
    if not found:
        raise TidegateError(f"{where} names no subject. Nothing was changed.")
    return list(dict.fromkeys(line for _, line in found))


def _lines(file: str) -> list[str]:
    if file == "-":
        return sys.stdin.read().splitlines()
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TidegateError(f"cannot read {file}: it is not there, not readable, or not text.") from error


def _say(
    addresses: Addresses, subjects: list[str], purposes: list[str], granted: bool, notice: str, as_json: bool
) -> None:
    now = wall_ms()
    records = [Consent(subject, purpose, granted, notice, now) for subject in subjects for purpose in purposes]
    with ControlWriter(addresses) as writer:
        offset = writer.write(*records)[-1]
    what = "granted" if granted else "withdrawn"
    document = {"subjects": len(subjects), "purposes": purposes, what: True, "offset": offset}
    people = "1 subject" if len(subjects) == 1 else f"{len(subjects)} subjects"
    under = f", under notice {notice}" if granted else ""
    answer(as_json, document, lambda: print(f"{what}: {', '.join(purposes)} for {people}{under}."))


def _count_words(view: View, notice: str) -> list[dict[str, Any]]:
    counts: dict[str, dict[str, int]] = {}
    for words in view.state.consents.values():
        for purpose, word in words.items():
            kind = "withdrawn" if not word.granted else "granted" if word.notice == notice else "lapsed"
            counts.setdefault(purpose, {"granted": 0, "lapsed": 0, "withdrawn": 0})[kind] += 1
    return [{"purpose": purpose, **numbers} for purpose, numbers in sorted(counts.items())]


def _show_words(rows: list[dict[str, Any]], view: View) -> None:
    if not rows:
        print("This subject has consented to nothing, so nothing of theirs passes.")
    else:
        table(
            ("purpose", "said", "notice", "at", ""),
            (
                (
                    row["purpose"],
                    "granted" if row["granted"] else "withdrawn",
                    row["notice"],
                    moment(row["at"]),
                    "" if row["stands"] or not row["granted"] else "lapsed: the notice has changed",
                )
                for row in rows
            ),
        )
    show_freshness(view)


def _show_counts(counts: list[dict[str, Any]], view: View) -> None:
    if not counts:
        print("Nobody has consented to anything, so nothing passes.")
    else:
        table(counts[0].keys(), ([str(value) for value in row.values()] for row in counts))
    show_freshness(view)
