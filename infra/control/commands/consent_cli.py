"""`tidegate consent`: what subjects allow, and what they take back.

A person speaks for themselves with their own key, and nobody else is asked. To
allow something for somebody else takes two approvers; to pause or to withdraw for
them, nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control.approval import Approval
from infra.control.commands.answers_shown import answers_json, details, headline
from infra.control.commands.cli_shared import AsJson, Keys, answer, moment
from infra.control.commands.consent_show import check_notice, consent_notice, consent_show, show_notice
from infra.control.commands.consent_who import Subject, SubjectFile, SubjectKey, Who, approvers_keys
from infra.control.commands.consent_words import agrees, outlasts, pause_end, pause_of, policy_for, said_by, word
from infra.control.commands.consent_write import ConsentTopic
from infra.control.commands.plain import count, listed, say
from infra.control.reader import wall_ms
from infra.control.records import ALL_PURPOSES, Policy
from infra.control.roll import Answers
from infra.control.suggest import unknown
from infra.errors import TidegateError

consent = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What a subject allows, purpose by purpose. Nothing is allowed unsaid.",
)
consent.command("show")(consent_show)
consent.command("notice")(consent_notice)

Purpose = Annotated[str, typer.Option("--purpose", help="Which purpose; `tidegate policy show` lists them.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the workers' gates.")]


@consent.command("grant")
def consent_grant(  # noqa: PLR0913, PLR0917 - one argument an option
    purpose: Purpose,
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    key: Keys = [],  # noqa: B006 - typer reads it and changes nothing
    create: Annotated[bool, typer.Option("--create-key", help="Make the key file if it is not there.")] = False,
    notice: Annotated[
        str, typer.Option(help="The notice that was read, by version or digest. (default: the one in force)")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not show the notice and ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Allow one purpose, under the notice in force.

    With your own key you allow it for yourself; on a terminal you are shown the
    notice first. For somebody else it takes the keys of two approvers, in one
    command or in two, one after the other (exit code 3 after the first).

    Examples:
        tidegate consent grant --purpose usability-research --subject-key me.key --create-key
        tidegate consent grant --purpose usability-research --file people --key anna
    """
    who = Who(subject_key, subject, file, create=create)
    with ConsentTopic(Addresses.load(), who.subjects) as topic:
        policy = policy_for(topic.state, [purpose])
        check_notice(topic.state, policy, notice)
        seeds = approvers_keys(key, own=who.own)
        who.keep_apart(topic.state)
        if who.own and not (yes or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
            _ask(policy, purpose)
        who.keep_key()
        said = topic.state.words_of
        lacking = [each for each in who.subjects if not agrees(said(each).get(purpose), policy)]
        now = wall_ms()
        records = who.sign(
            [word(topic.state, each, purpose, granted=True, now_ms=now) for each in lacking], topic.state.log
        )
        short: list[Approval] = []
        if not who.own:
            short = topic.approve(records, seeds)
        elif records:
            topic.allow(records)
        paused = who.own and pause_of(topic.state, who.subjects[0], now) is not None
    done = len(who.subjects) - len(short)
    for_whom = "" if who.own else f" for {count(done, 'subject')}"
    told = f"granted{'' if lacking else ' already'}: {purpose}{for_whom}, under notice {policy.notice}."
    if paused:
        told += "\nYou have paused, so nothing passes before the pause ends: see `tidegate consent resume`."
    document = {
        "subjects": len(who.subjects),
        "purposes": [purpose],
        "granted": not short,
        "already": len(who.subjects) - len(lacking),
        "notice": policy.notice,
    }
    _tell_signed(as_json, document, told if done else "", short)


def _ask(policy: Policy, purpose: str) -> None:
    show_notice(policy.notice, policy.notice_text)
    if not typer.confirm(f"Do you allow {purpose} under this notice?", default=False):
        raise TidegateError("nothing was granted.")


@consent.command("withdraw")
def consent_withdraw(
    purpose: Annotated[str, typer.Option("--purpose", help="Which purpose. (default: all of them)")] = "",
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    wait: Wait = 2.0,
    as_json: AsJson = False,
) -> None:
    """Take a consent back, yours or somebody else's. Needs nobody's permission; it holds as soon as it is written."""
    who = Who(subject_key, subject, file)
    with ConsentTopic(Addresses.load(), who.subjects, watch=True) as topic:
        state, now = topic.state, wall_ms()
        by_subject = {each: said_by(state, each) for each in who.subjects}
        said = sorted(set().union(*by_subject.values()))
        known = sorted({*said, *(rule.name for rule in state.policy.purposes)} if state.policy else said)
        if purpose and purpose not in known:
            raise TidegateError(f"{unknown('purpose', purpose, known)} Nothing was withdrawn.")
        if not purpose and not said:
            raise TidegateError("there is no consent to withdraw: nothing was ever allowed. Nothing was changed.")
        records = [
            word(state, each, name, granted=False, now_ms=now)
            for each, names in by_subject.items()
            for name in ([purpose] if purpose else names)
        ]
        written = topic.write(who.sign(records, state.log))
        found = topic.wait(written, wait)
    purposes = [purpose] if purpose else said
    document = {"subjects": len(who.subjects), "purposes": purposes, "withdrawn": True, "offset": written.offset}
    for_whom = "" if who.own else f" for {count(len(who.subjects), 'subject')}"
    _tell(as_json, document, "withdrawn", found, f"{listed(purposes)}{for_whom}")


@consent.command("pause")
def consent_pause(
    lasting: Annotated[str, typer.Option("--for", help="How long: 30m, 2h. (default: until it is resumed)")] = "",
    until: Annotated[str, typer.Option("--until", help="Until when: 2026-11-22T18:00Z.")] = "",
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    wait: Wait = 2.0,
    as_json: AsJson = False,
) -> None:
    """Let nothing pass for a while, whatever was allowed: yours, or somebody else's. Needs nobody's permission."""
    now = wall_ms()
    end = pause_end(lasting, until, now)
    who = Who(subject_key, subject, file)
    with ConsentTopic(Addresses.load(), who.subjects, watch=True) as topic:
        state = topic.state
        longer = [each for each in who.subjects if outlasts(pause_of(state, each, now), end)]
        # Only one's own key makes a pause shorter.
        pausing = who.subjects if who.own else [each for each in who.subjects if each not in longer]
        if not pausing:
            raise TidegateError(
                f"already paused for longer: {count(len(longer), 'subject')}. To end a pause sooner takes their own "
                "key. Nothing was changed."
            )
        records = [word(state, each, ALL_PURPOSES, granted=False, now_ms=now, until=end) for each in pausing]
        records = who.sign(records, state.log)
        written = topic.write(records)
        found = topic.wait(written, wait)
        if who.own and longer:
            topic.make_sure(records, written)
    document = {"subjects": len(pausing), "paused": True, "until": end, "offset": written.offset}
    for_whom = "" if who.own else f"{count(len(pausing), 'subject')}, "
    _tell(as_json, document, "paused", found, for_whom + (f"until {moment(end)}" if end else "until it is resumed"))


@consent.command("resume")
def consent_resume(
    subject_key: SubjectKey = None,
    subject: Subject = "",
    file: SubjectFile = "",
    key: Keys = [],  # noqa: B006 - typer reads it and changes nothing
    wait: Wait = 2.0,
    as_json: AsJson = False,
) -> None:
    """End a pause: what was allowed passes again. For somebody else it takes two approvers, as `grant` does."""
    who = Who(subject_key, subject, file)
    with ConsentTopic(Addresses.load(), who.subjects, watch=who.own) as topic:
        state, now = topic.state, wall_ms()
        paused = [each for each in who.subjects if pause_of(state, each, now) is not None]
        if not paused:
            raise TidegateError("there is no pause to end. Nothing was changed.")
        seeds = approvers_keys(key, own=who.own)
        records = [word(state, each, ALL_PURPOSES, granted=True, now_ms=now) for each in paused]
        if who.own:
            written = topic.allow(who.sign(records, state.log))
            found = topic.wait(written, wait)
        else:
            short = topic.approve(records, seeds)
    if who.own:
        _tell(as_json, {"subjects": 1, "paused": False, "offset": written.offset}, "resumed", found, "")
        return
    done = len(paused) - len(short)
    document = {"subjects": len(paused), "paused": bool(short)}
    _tell_signed(as_json, document, f"resumed: {count(done, 'subject')}." if done else "", short)


def _tell_signed(as_json: bool, document: dict[str, Any], done: str, short: Sequence[Approval]) -> None:
    """Say what is done and what lacks a signature; exit code 3 while something does."""
    first = short[0] if short else Approval((), ())
    waiting = {"waiting": len(short), "signed_by": list(first.names), "may_sign": list(first.others) if short else []}

    def told() -> None:
        if done:
            print(done)
        if short:
            many = f", for {len(short)} subjects" if len(short) > 1 else ""
            print(f"proposed, signed by {listed(first.names)}: it waits for a second person{many}.")
            print(f"The same command with --key {' or '.join(first.others) or 'NAME'} completes it.")

    answer(as_json, {**document, **waiting}, told)
    if short:
        raise typer.Exit(3)


def _tell(as_json: bool, document: dict[str, Any], done: str, found: Answers, what: str) -> None:
    """Say which workers' gates go by it; exit code 3 while one has not said so."""

    def told() -> None:
        print(headline(done, found))
        if what:
            print(f"  {what}")
        if not found.complete:
            say(details(found, lambda _: False))
            print("It is written, and holds whatever happens next. To see who goes by it: tidegate gates list")

    answer(as_json, {**document, **answers_json(found)}, told)
    if not found.complete:
        raise typer.Exit(3)
