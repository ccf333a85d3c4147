"""Looks at the log and the store, to prove that a switch held. What is made of it stands in `proof`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from infra.addresses import Addresses
from infra.control import proof_sql
from infra.control.acks import LONGEST_LEASE_MS
from infra.control.commands.cli_shared import HEARTBEAT_SECONDS
from infra.control.identity import load_key
from infra.control.proof import (
    STARTING_MS,
    CannotTellError,
    Clocks,
    Column,
    Covers,
    Engagement,
    Figure,
    Proof,
    broker_ahead,
    clock_trouble,
    covers_of,
    engagements,
    fates,
    figures_of,
)
from infra.control.proof_log import Blocks, LogReader
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import ACK_TOPIC, MAX_SKEW_MS, POLICY_TOPIC, SWITCH_TOPIC, Ack, Switch, Unreadable, decode
from infra.control.roll import Gate, Word, gates
from infra.control.state import Entry
from infra.control.suggest import unknown
from infra.control.teams import load_teams
from infra.errors import TidegateError
from infra.store import Store
from infra.topics import MINIMIZED, RAW

PSEUDONYM_KEY = "keys/pseudonym.key"
KEY_VARIABLE = "TIDEGATE_PSEUDONYM_KEY"
TABLES_KEEP_DAYS = 90
"""How long the tables hold rows, see infra/clickhouse."""
DAY_MS = 86_400_000
_CLOCK_LOOKS = 5
"""How often the store is asked for its time; the quickest answer counts."""


def prove(addresses: Addresses, name: str) -> Proof:
    """Look at everything. Raises TidegateError when the broker does not answer, or knows no such switch."""
    with LogReader(addresses) as log:
        known = engagements([*_entries(log, POLICY_TOPIC), *_entries(log, SWITCH_TOPIC)], addresses.log)
        if name not in known:
            raise TidegateError(unknown("switch", name, known))
        engaged = known[name]
        ahead = _authority_ahead(addresses)
        # By the authority's clock, as the acknowledgements are.
        end = engaged.released_at if engaged.released_at is not None else wall_ms() + (ahead or 0)
        heard = _gates(log, engaged, end)
        proof = Proof(engaged, fates(heard, engaged, addresses.log, end), end)
        unseen = list(_too_old(log, engaged))
        proof = replace(proof, clocks=Clocks(authority=ahead, broker=broker_ahead(heard)), unseen=unseen)
        try:
            covers = _covers(addresses, engaged.switch)
        except (CannotTellError, TidegateError) as error:
            return replace(proof, unseen=[*unseen, str(error).rstrip(".")])
        proof = replace(proof, note=covers.note)
        if proof.begin is None:
            return proof
        proof = _passed(log, addresses, _stored(addresses, proof, covers), covers)
    trouble = clock_trouble(proof.clocks)
    return replace(proof, unseen=[*proof.unseen, trouble]) if trouble else proof


# -- the log -----------------------------------------------------------------


def _entries(log: LogReader, topic: str) -> Iterator[Entry]:
    for found in log.records(topic):
        if found.value is None:
            yield Entry(topic, found.offset, found.key, None, found.at)
        else:
            record = decode(topic, found.value, found.key, found.at) if found.key else Unreadable("no_key")
            yield Entry(topic, found.offset, found.key, record, found.at)


def _gates(log: LogReader, engaged: Engagement, end: int) -> list[Gate]:
    """Return the gates that could be open when it was engaged, with what they said until it could not matter more."""
    since = engaged.at - LONGEST_LEASE_MS - MAX_SKEW_MS
    until = min(end, engaged.at + STARTING_MS + 2 * LONGEST_LEASE_MS)
    words = []
    for found in log.records(ACK_TOPIC, since, until):
        ack = decode(ACK_TOPIC, found.value or b"")
        if isinstance(ack, Ack):
            words.append(Word(found.offset, ack, found.at, arrived=0.0))
    return gates(words)


def _too_old(log: LogReader, engaged: Engagement) -> Iterator[str]:
    if not log.is_whole(ACK_TOPIC, engaged.at - LONGEST_LEASE_MS):
        yield f"{ACK_TOPIC}, which no longer goes back to when it was engaged: gates may be missing here"
    if engaged.at < wall_ms() - TABLES_KEEP_DAYS * DAY_MS:
        yield f"rows older than {TABLES_KEEP_DAYS} days, which the tables do not keep"


def _authority_ahead(addresses: Addresses) -> int | None:
    """Return the authority's clock minus this machine's, ms; None where no heartbeat is heard."""
    with ControlReader(addresses, "authority") as reader:
        reader.wait_for(lambda _: reader.heartbeat_age is not None, 2 * HEARTBEAT_SECONDS)
        return None if reader.heartbeat_age is None else reader.authority_ms - wall_ms()


def _passed(log: LogReader, addresses: Addresses, proof: Proof, covers: Covers) -> Proof:
    """Count what the topics took in the interval, its ends left out."""
    begin, end, apart = (proof.begin or 0) + 1, proof.end - 1, proof.clocks.apart
    raw = sum(1 for _ in log.records(RAW, begin, end))
    tail = "" if log.is_whole(RAW, begin) else " (older ones are no longer in the log)"
    figures = [*proof.figures, Figure(RAW, f"messages appended after the last acknowledgement{tail}", raw, False)]
    unseen = list(proof.unseen)
    if not log.is_whole(MINIMIZED, begin):
        unseen.append(f"{MINIMIZED}, which no longer goes back to the last acknowledgement")
    counts, unread = {"messages": 0, "held": 0, "near": 0}, 0
    try:
        blocks = Blocks(addresses, covers)
        for found in log.records(MINIMIZED, begin, end):
            held = blocks.held(found.value)
            counts["messages"] += 1
            counts["held"] += held or 0
            counts["near"] += 0 if begin + apart <= found.at <= end - apart else held or 0
            unread += held is None
    except TidegateError as error:
        return replace(proof, figures=figures, unseen=[*unseen, f"{MINIMIZED}: {str(error).rstrip('.')}"])
    if unread:
        unseen.append(f"{unread} messages of {MINIMIZED}, which are no blocks that this program can read")
    listed = (
        Column("messages", MINIMIZED, "messages appended after the last acknowledgement", False),
        Column("held", MINIMIZED, "events of what it covers in them", True, "near"),
    )
    return replace(proof, figures=[*figures, *figures_of(listed, counts, sure=covers.sure)], unseen=unseen)


# -- the store ---------------------------------------------------------------


def _stored(addresses: Addresses, proof: Proof, covers: Covers) -> Proof:
    """Ask the store; what cannot be asked is said in `unseen`."""
    asked: list[tuple[str, str]] = []
    figures: list[Figure] = []
    engaged, begin = proof.engaged, proof.begin or 0
    try:
        store = Store(addresses)
        proof = replace(proof, clocks=_with_store(proof.clocks, store))
        times = {
            "engaged": engaged.at,
            "begin": begin,
            "end": proof.end,
            "until": max(begin, proof.end - engaged.resolution_ms),
            "apart": proof.clocks.apart,
        }
        for query in proof_sql.queries(covers, engaged.switch.id):
            sql = proof_sql.fill(query.sql, times)
            asked.append((query.title, sql))
            # What is printed is what is run; only pseudonyms go beside it.
            hidden = {"pseudonyms": list(covers.pseudonyms)} if "{pseudonyms:" in sql else None
            row = store.query_rows(sql, hidden).dicts()[0]
            figures += figures_of(query.columns, row, len(asked), sure=covers.sure)
        store.close()
    except TidegateError as error:
        proof = replace(proof, unseen=[*proof.unseen, f"tables: {str(error).rstrip('.')}"])
    return replace(proof, figures=figures, queries=asked)


def _with_store(clocks: Clocks, store: Store) -> Clocks:
    store.query_rows(proof_sql.CLOCK)  # connects, which takes longer than the answer
    seen = []
    for _ in range(_CLOCK_LOOKS):
        before, began = wall_ms(), time.monotonic()
        there = int(store.query_rows(proof_sql.CLOCK).rows[0][0])
        trip = round((time.monotonic() - began) * 1000)
        seen.append((trip, there - before - trip // 2))
    trip, ahead = min(seen)
    return Clocks(ahead, trip, clocks.authority, clocks.broker)


def _covers(addresses: Addresses, switch: Switch) -> Covers:
    """Say what the switch covers; who somebody is takes the key that pseudonyms are made with."""
    teams = load_teams(addresses.home) if switch.scope == "team" else {}
    given = os.environ.get(KEY_VARIABLE, "")
    path = Path(given) if given else addresses.home / PSEUDONYM_KEY
    needed = switch.scope == "subject" or bool(teams)
    return covers_of(switch, load_key(path) if needed and path.exists() else None, teams)
