"""The books, counted by the real store over rows planted by hand."""

from __future__ import annotations

import json

import pytest

from streams.reading.books import BALANCED, IN_FLIGHT, UNBALANCED
from streams.reading.books_cli import count, explained, settle

STARTED = 1_700_000_000_000
PARAMETERS = {"log": "1", "since": 0}


@pytest.fixture
def look(planted):
    """Counts the planted rows; takes the current log."""
    return lambda log="1": count(planted.store, {**PARAMETERS, "log": log})


def test_an_empty_store_balances(look):
    """No session, nothing to account for."""
    books = look()
    assert books.code == BALANCED
    assert books.totals.sessions == 0


def test_what_is_stored_dropped_or_late_is_accounted_for(planted, look):
    """One session that loses events to every stage balances to zero, reason by reason."""
    planted.batch("s", 0, 10, 10)
    planted.batch("s", 1, 10, 25, final=1, kept=8, late=1, producer_dropped={"spool_full": 5}, dropped={"switch": 2})
    planted.window("s", range(10))
    planted.window("s", range(10, 14), start=1_000_000_000_000)
    planted.window("s", (), refused={"no_consent": 3})
    planted.ledger(2)
    books = look()
    assert (books.code, books.findings) == (BALANCED, ())
    totals = books.totals
    assert (totals.captured, totals.stored, totals.late, totals.dropped_events) == (25, 14, 1, 10)
    assert totals.dropped == {
        "producer": {"spool_full": 5}, "minimiser": {"switch": 2}, "windower": {"no_consent": 3},
    }  # fmt: skip
    assert totals.remainder == 0


def test_a_lost_event_is_named(planted, look):
    """An event that was kept and never stored, with its block closed, makes the books unbalanced."""
    planted.batch("good", 0, 10, 10, final=1)
    planted.window("good", range(10))
    planted.batch("bad", 1, 10, 10, final=1)
    planted.window("bad", range(9))
    planted.ledger(2)
    books = look()
    assert books.code == UNBALANCED
    assert [(f.session, f.unstored, f.missing) for f in books.findings] == [("bad", 1, 0)]
    assert "1 received but not stored" in books.findings[0].text
    assert books.totals.remainder == 0


def test_a_doubled_window_is_named(planted, look):
    """A window that stands in the table twice is found, and does not hide behind a loss of the same size."""
    planted.batch("s", 0, 20, 20, final=1)
    planted.window("s", range(10), times=2)
    planted.ledger(1)
    books = look()
    assert books.code == UNBALANCED
    finding = books.findings[0]
    assert (finding.stored_twice, finding.windows_twice, finding.unstored) == (10, 1, 10)
    assert books.totals.remainder == 0


def test_more_stored_than_kept_is_named(planted, look):
    """Rows of events that no receipt knows make the books unbalanced, with a receipt or without any."""
    planted.batch("s", 0, 5, 5, final=1)
    planted.window("s", range(10))
    planted.window("unknown", range(3))
    planted.ledger(1)
    books = look()
    assert books.code == UNBALANCED
    assert [(f.session, f.stored_twice) for f in books.findings] == [("s", 5), ("unknown", 3)]


def test_a_missing_batch_in_the_middle_waits_while_the_session_is_open(planted, look):
    """A gap may still be explained by a later batch of an open session; once it has ended it is a loss."""
    planted.batch("s", 0, 10, 10)
    planted.batch("s", 2, 10, 30)
    planted.window("s", [*range(10), *range(20, 30)])
    planted.ledger(3)
    books = look()
    assert (books.code, books.totals.in_flight, books.totals.awaited) == (IN_FLIGHT, 10, 10)
    planted.batch("s", 3, 0, 30, final=1)
    books = look()
    assert (books.code, [f.missing for f in books.findings]) == (UNBALANCED, [10])


def test_a_later_batch_repairs_a_loss_to_a_full_spool(planted, look):
    """The running totals of a later batch explain a batch that the spool refused."""
    planted.batch("s", 0, 10, 10)
    planted.batch("s", 2, 10, 30)
    planted.batch("s", 3, 5, 35, final=1, producer_dropped={"spool_full": 10})
    planted.window("s", [*range(10), *range(20, 35)])
    planted.ledger(4)
    books = look()
    assert (books.code, books.totals.in_flight) == (BALANCED, 0)
    assert books.totals.dropped["producer"] == {"spool_full": 10}


def test_a_batch_that_was_received_twice_is_named(planted, look):
    """A producer that sends a batch again under another offset stores it twice: the books say so."""
    planted.batch("s", 0, 10, 10)
    planted.batch("s", 1, 10, 10, final=1)
    planted.window("s", range(10), stored=10)
    planted.window("s", range(10), stored=10, start=1_000_000_000_000)
    planted.ledger(2)
    books = look()
    assert (books.code, [f.received_twice for f in books.findings]) == (UNBALANCED, [10])
    assert books.totals.remainder == 0


def test_a_receipt_written_again_counts_once(planted, look):
    """A receipt is repeated after a crash; the table's key makes the repeat one row."""
    for _ in range(2):
        planted.batch("s", 0, 10, 10, final=1)
    planted.window("s", range(10))
    planted.ledger(1)
    assert look().code == BALANCED


def test_late_events_are_accounted_for(planted, look):
    """Late events are of what was kept, and are not missing from the windows."""
    planted.batch("s", 0, 10, 10, final=1, late=4)
    planted.window("s", range(6))
    planted.ledger(1)
    books = look()
    assert (books.code, books.totals.late) == (BALANCED, 4)


def test_what_the_gate_refused_at_the_insert_is_accounted_for(planted, look):
    """A refused row holds a count and no events; several of one window add up."""
    planted.batch("s", 0, 10, 10, final=1)
    planted.window("s", (), refused={"switch": 6})
    planted.window("s", (), refused={"no_consent": 4})
    planted.ledger(1)
    books = look()
    assert (books.code, books.totals.dropped["windower"]) == (BALANCED, {"switch": 6, "no_consent": 4})


def test_an_event_of_hopping_windows_counts_once(planted, look):
    """Each event stands in two hopping windows and is stored in one, its primary."""
    planted.batch("s", 0, 10, 10, final=1)
    hopping = {"window_kind": "hopping", "step_ms": 5_000}
    planted.window("s", range(10), stored=0, **hopping)
    planted.window("s", range(10), stored=10, start=1_000_000_000_000, **hopping)
    planted.ledger(1)
    assert look().code == BALANCED
    planted.window("s", range(10), stored=0, start=STARTED + 5_000, times=2, **hopping)
    books = look()
    assert (books.code, books.findings[0].windows_twice) == (UNBALANCED, 1)


def test_events_of_open_blocks_are_in_flight(planted, look):
    """What blocks from replay_from on hold is in flight, less what of it is stored already; without a ledger all is."""
    planted.batch("s", 0, 10, 10)
    assert (look().code, look().totals.in_flight) == (IN_FLIGHT, 10)
    planted.batch("s", 1, 10, 20)
    planted.window("s", range(14))
    planted.ledger(1)
    books = look()
    assert (books.code, books.totals.in_flight, books.totals.open_sessions) == (IN_FLIGHT, 6, 1)


def test_open_blocks_do_not_cover_an_older_loss(planted, look):
    """More missing than open blocks can hold is a loss at once, though events are in flight too."""
    planted.batch("s", 0, 10, 10)
    planted.batch("s", 1, 5, 15)
    planted.ledger(1)
    books = look()
    assert (books.code, books.totals.in_flight, books.findings[0].unstored) == (UNBALANCED, 5, 10)


def test_an_open_session_with_nothing_missing_balances(planted, look):
    """A session need not end for its books to balance: a producer may have been killed."""
    planted.batch("s", 0, 10, 10)
    planted.window("s", range(10))
    planted.ledger(1)
    books = look()
    assert (books.code, books.totals.open_sessions) == (BALANCED, 1)


def test_what_died_with_an_earlier_log_is_lost_with_it(planted, look):
    """Events that an earlier log's windower still held, and batches it never read, are log_lost, not unbalanced."""
    planted.batch("s", 0, 10, 10, log="old")
    planted.batch("s", 1, 10, 20, log="old")
    planted.window("s", range(10), log="old")
    planted.ledger(1, log="old")
    # Batch 20..30 reached the old broker and no further.
    planted.batch("s", 0, 10, 40, log="new", final=1)
    planted.window("s", range(30, 40), log="new", start=1_000_000_000_000)
    planted.ledger(1, log="new")
    books = look("new")
    assert (books.code, books.totals.log_lost, books.totals.in_flight) == (BALANCED, 20, 0)
    assert books.totals.remainder == 0
    assert "20 lost with an earlier log" in books.line


def test_a_new_log_hides_no_loss_of_an_old_one(planted, look):
    """What a closed block of the old log lost stays a loss after the broker has begun anew."""
    planted.batch("s", 0, 10, 10, log="old")
    planted.window("s", range(7), log="old")
    planted.ledger(1, log="old")
    planted.batch("t", 0, 1, 1, log="new", final=1)
    planted.window("t", range(1), log="new")
    planted.ledger(1, log="new")
    books = look("new")
    assert (books.code, [(f.session, f.unstored) for f in books.findings]) == (UNBALANCED, [("s", 3)])


def test_a_gap_within_the_current_log_is_no_log_loss(planted, look):
    """A batch missing between two of the current log is a loss, whatever logs there were before."""
    planted.batch("s", 0, 10, 10, log="old", final=0)
    planted.window("s", range(10), log="old")
    planted.ledger(1, log="old")
    planted.batch("s", 0, 10, 20, log="new")
    planted.batch("s", 2, 10, 40, log="new", final=1)
    planted.window("s", [*range(10, 20), *range(30, 40)], log="new", start=1_000_000_000_000)
    planted.ledger(3, log="new")
    books = look("new")
    assert (books.code, books.findings[0].missing, books.totals.log_lost) == (UNBALANCED, 10, 0)


def test_sessions_from_before_are_left_out_whole(planted, look):
    """Sessions that began before `since` are in no sum, their windows neither."""
    planted.batch("old", 0, 10, 10, final=1, append_time=1000)
    planted.window("old", range(3))
    planted.batch("new", 1, 10, 10, final=1)
    planted.window("new", range(10))
    planted.ledger(2)
    books = count(planted.store, {"log": "1", "since": 2000})
    assert (books.code, books.totals.sessions, books.totals.stored) == (BALANCED, 1, 10)


def test_only_so_many_sessions_are_named(planted, look):
    """Twenty are named, all are counted."""
    for number in range(23):
        planted.batch(f"s{number:02}", number, 1, 1, final=1)
    planted.ledger(100)
    books = look()
    assert (books.totals.unbalanced, len(books.findings)) == (23, 20)


def test_the_command_says_it_in_words_and_in_json(planted):
    """Exit code, balance line, named session and JSON agree; --explain runs in the store as it is printed."""
    planted.batch("ok", 0, 10, 10, final=1)
    planted.window("ok", range(10))
    planted.ledger(1)
    planted.deadletter(7)
    done = planted.run("books")
    assert done.returncode == 0, done.stderr
    assert "balanced: 10 captured = 10 stored + 0 dropped + 0 late" in done.stdout
    assert "dead letters" in done.stdout
    planted.batch("bad", 5, 10, 10, final=1, block_offset=0)
    done = planted.run("books", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["lost"]) == (1, "unbalanced", 10)
    assert document["findings"][0]["session"] == "bad"
    assert "session bad: 10 received but not stored" in planted.run("books").stdout
    text = planted.run("books", "--explain").stdout
    queries = [query for query in text.split(";\n") if query.strip()]
    assert len(queries) == 2
    assert planted.store.query_rows(queries[1].rstrip().rstrip(";")).rows[0][0] == "bad"


def test_in_flight_exits_3_and_a_wait_ends_when_it_has_settled(planted):
    """Events in flight: exit 3, also after a wait that runs out; a settled store ends the wait early."""
    planted.batch("s", 0, 10, 10)
    assert planted.run("books", "--json").returncode == 3
    assert planted.run("books", "--json", "--wait", "1").returncode == 3
    planted.window("s", range(10))
    planted.ledger(1)
    assert planted.run("books", "--json", "--wait", "60").returncode == 0


def test_a_store_that_is_away_is_named(tmp_path, planted):
    """Without a store there are no books, and the message says where it was looked for."""
    planted.addresses = type(planted.addresses)(home=tmp_path, database="x")
    done = planted.run("books")
    assert done.returncode == 1
    assert "store" in done.stderr
    assert "Traceback" not in done.stderr


def test_explained_queries_have_no_parameter_left():
    """Every parameter is filled in, quotes in a log's name too."""
    assert "{" not in explained({"log": "it's", "since": 5})
    assert "'it\\'s'" in explained({"log": "it's", "since": 5})


def test_one_bad_moment_is_counted_again(planted, look):
    """Workers write while the books are counted: a bad count is believed only when it stays."""
    planted.batch("s", 0, 10, 10, final=1)
    planted.ledger(1)

    def written_meanwhile(seconds):
        planted.window("s", range(10))

    assert settle(look, 0, lambda: 0.0, written_meanwhile).code == BALANCED
