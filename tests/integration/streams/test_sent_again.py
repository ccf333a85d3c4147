"""A producer that sends its spool a second time, on real parts: stored once, received once, and the books balance."""

from __future__ import annotations

import json
import random
import subprocess
import time

from schemas.wire import frame
from tests.path_stack import PathStack, Writer, wait
from tests.streams_support import raw_body

ANN, EVENTS, BATCHES = "a" * 32, 20, 30
REPEATS = "tidegate_windower_repeats_total"


class Spool:
    """One session's batches, as a producer's spool keeps them to send them again."""

    def __init__(self, path: PathStack, writer: Writer, session: str) -> None:
        self._writer, schema = writer, path.schema_ids["interactions.raw-value"]
        self.began = time.time_ns() // 1_000_000
        self.session, total = session, EVENTS * BATCHES
        bodies = [
            raw_body(
                [self.began + n for n in range(first, first + EVENTS)], session=session, subject=ANN, first_number=first
            )
            for first in range(0, total, EVENTS)
        ]
        end = raw_body([], session=session, subject=ANN, first_number=total, final=True)
        self.values = [frame(schema, body) for body in (*bodies, end)]

    def send(self, order: list[int] | None = None) -> None:
        for at in order or range(len(self.values)):
            self._writer.raw(1, self.values[at], time.time_ns() // 1_000_000)
        self._writer.flush()


def receipts(path: PathStack, session: str) -> int:
    query = "SELECT count() FROM batches FINAL WHERE session = {session:String} AND count > 0"
    return path.store.query_rows(query, {"session": session}).rows[0][0]


def stored(path: PathStack, session: str) -> list[int]:
    query = "SELECT arrayJoin(number) AS number FROM windows WHERE session = {session:String} ORDER BY number"
    return [row[0] for row in path.store.query_rows(query, {"session": session}).rows]


def books(path: PathStack) -> tuple[int, dict]:
    done = subprocess.run(
        path.python("tidegate", "books", "--json"), env=path.env(), capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def restart(path: PathStack) -> None:
    """kill -9, and a new windower in its place."""
    path.kill("window-1")
    path.start_worker("window", ready=False)


def test_a_spool_sent_again_is_stored_once(path: PathStack, writer: Writer, workers: None) -> None:
    """Out of order, again, across a kill -9 with windows open, and again when all are stored and the windower is new."""
    spool = Spool(path, writer, "again")
    order = list(range(len(spool.values)))
    random.Random(3).shuffle(order)
    spool.send(order)
    wait(lambda: receipts(path, "again") == BATCHES, "every batch has its receipt")
    spool.send()
    restart(path)
    spool.send(order[::-1])
    wait(lambda: len(stored(path, "again")) >= EVENTS * BATCHES, "every event is stored")
    wait(lambda: books(path)[0] != 3, "nothing is in flight")
    # What comes now is late, and would be received twice if the new windower did not know it.
    restart(path)
    spool.send()
    wait(lambda: path.metric("window-1", REPEATS) >= BATCHES, "the repeats are counted")
    wait(lambda: books(path)[0] != 3, "nothing is in flight")
    code, told = books(path)
    assert (code, told["captured"]) == (0, EVENTS * BATCHES), told
    assert stored(path, "again") == list(range(EVENTS * BATCHES))
    assert receipts(path, "again") == BATCHES
