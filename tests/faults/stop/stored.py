"""What the tests of this folder ask the store: which rows it took when, and when their events were captured."""

from __future__ import annotations

import time

from infra.addresses import Addresses
from infra.store import Store
from tests.path_stack import PARTITIONS, wait

DEAF_SESSIONS = "deaf-"
"""How the sessions of the device begin that listens to no switch."""
PATIENCE_S = 90.0
"""On a machine that is busy with other tests, rows come seconds late."""
POLL_S = 0.25
"""The store has enough to do."""
_AT = "toUnixTimestamp64Milli(stored_at)"


def now_ms() -> int:
    """UTC epoch ms: of the test, the store and the authority alike, which share a machine."""
    return time.time_ns() // 1_000_000


class Stored:
    """The rows of one path. Moments are UTC epoch ms; a row counts when it holds an event."""

    def __init__(self, addresses: Addresses) -> None:
        self._store, self._log = Store(addresses), addresses.log

    def rows(self, after_ms: int = 0, before_ms: int = 2**62) -> int:
        """How many rows were stored between two moments."""
        where = f"events > 0 AND {_AT} > {{a:Int64}} AND {_AT} < {{b:Int64}}"
        return self._one(f"SELECT count() FROM windows WHERE {where}", a=after_ms, b=before_ms)

    def events(self, after_ms: int, through_ms: int, *, stored_after_ms: int = 0, deaf: bool = True) -> int:
        """How many events captured between two moments were stored after a third; `deaf`: of the deaf device too."""
        within = "arrayCount(o -> window_start + o > {a:Int64} AND window_start + o <= {b:Int64}, offset_ms)"
        where = f"{_AT} > {{c:Int64}}" + ("" if deaf else f" AND NOT startsWith(session, '{DEAF_SESSIONS}')")
        return self._one(
            f"SELECT sum({within}) FROM windows WHERE {where}", a=after_ms, b=through_ms, c=stored_after_ms
        )

    def dropped(self) -> int:
        """How many events of producers that listen were dropped because everything was closed or stopped."""
        reasons = ("epoch", "switch", "stale")
        theirs, ours = (" + ".join(f"{by}['{why}']" for why in reasons) for by in ("producer_dropped", "dropped"))
        return self._one(
            f"SELECT sum(count) FROM (SELECT max({theirs}) + sum({ours}) AS count FROM batches FINAL "
            f"WHERE NOT startsWith(session, '{DEAF_SESSIONS}') GROUP BY session)"
        )

    def sessions(self) -> set[str]:
        """The sessions of which anything has arrived."""
        return {row[0] for row in self._store.query_rows("SELECT DISTINCT session FROM batches").rows}

    def received_of_others(self, known: set[str]) -> tuple[int, int]:
        """Of all other sessions: how many events have arrived, and how many of them were of an earlier epoch."""
        query = "SELECT sum(count), sum(dropped['epoch']) FROM batches FINAL WHERE session NOT IN {known:Array(String)}"
        received, refused = self._store.query_rows(query, {"known": sorted(known)}).rows[0]
        return int(received), int(refused)

    def rows_of_others(self, known: set[str], since_ms: int) -> bool:
        """Whether something of another session is stored that was captured after a moment."""
        query = (
            "SELECT count() FROM windows "
            "WHERE events > 0 AND window_start + offset_ms[-1] > {since:Int64} AND session NOT IN {known:Array(String)}"
        )
        return self._one(query, since=since_ms, known=sorted(known)) > 0

    def wait_flow(self, since_ms: int | None = None) -> None:
        """Wait until what was captured after a moment (now) is stored, of the producer and of the deaf device."""
        since = now_ms() if since_ms is None else since_ms
        for sign in ("", "NOT"):
            query = (
                f"SELECT count() FROM windows WHERE events > 0 AND window_start + offset_ms[-1] > {{since:Int64}} "
                f"AND {sign} startsWith(session, '{DEAF_SESSIONS}')"
            )
            wait(lambda query=query: self._one(query, since=since) > 0, "rows flow", PATIENCE_S, POLL_S)

    def wait_judged(self, through_ms: int) -> None:
        """Wait until every window that can hold what was captured up to a moment has been judged and stored."""
        query = "SELECT countIf(closed_through >= {ms:Int64}) FROM ledger FINAL WHERE log = {log:String}"
        wait(lambda: self._one(query, ms=through_ms, log=self._log) == PARTITIONS, "windows close", PATIENCE_S, POLL_S)

    def _one(self, query: str, **params: object) -> int:
        return int(self._store.query_rows(query, params).rows[0][0] or 0)
