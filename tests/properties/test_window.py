"""The windower against a model, through crashes, replays, and blocks that are sent again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.data import ClosedSlot, LedgerRow, RawMessage, WindowSpec
from streams.pipeline_window import WindowPipeline
from streams.received import DAY_MS, Arrived, Received, oldest_remembered
from streams.window import place
from tests.streams_support import (
    ANN,
    BOB,
    T0,
    TRAINING,
    block_value,
    codec_for,
    minimiser,
    policy,
    pseudonym,
    raw_message,
    tick_value,
    view_of,
)

CAT = "c" * 32
SUBJECTS = {"sa": ANN, "sb": BOB, "sc": CAT}
CONSENTS = {ANN: [TRAINING], BOB: [TRAINING]}  # CAT has said no: batches of hers hold nothing
PSEUDONYMS = {pseudonym(who): names for who, names in CONSENTS.items()}
STANDING = view_of(policy(), PSEUDONYMS)
RELEASED = view_of(policy(), PSEUDONYMS, epoch=1)
SPECS = (
    WindowSpec("tumbling", 1_000, 1_000, 0, 300),
    WindowSpec("tumbling", 1_000, 1_000, 0, 0),
    WindowSpec("hopping", 1_000, 400, 0, 300),
    WindowSpec("hopping", 1_200, 400, 0, 0),
    WindowSpec("session", 1_000, 1_000, 150, 300),
)
Content = tuple[Any, ...]
RECEIPT = (
    "raw_offset", "session", "count", "kept", "late", "first_number", "captured", "final", "append_time", "dropped",
    "block_offset",
)  # fmt: skip


def in_force(spec: WindowSpec):
    return policy(
        window_kind=spec.kind,
        window_size_ms=spec.size_ms,
        window_step_ms=spec.step_ms,
        window_gap_ms=spec.gap_ms,
        lateness_ms=spec.lateness_ms,
    )


@st.composite
def raw_logs(draw: st.DrawFn) -> list[RawMessage]:
    """A partition of interactions.raw: append times that rise, event times before them, a few far before."""
    append, numbers, messages = T0 + 2_000, Counter[str](), []
    for offset in range(draw(st.integers(1, 14))):
        append += draw(st.sampled_from([0, 1, 50, 400, 900, 2_500]))
        session = draw(st.sampled_from(sorted(SUBJECTS)))
        ages = draw(st.lists(st.integers(-50, 700) | st.sampled_from([1_400, 2_600, 3_600_000]), max_size=5))
        ages = sorted(ages, reverse=True) if draw(st.booleans()) else ages
        application = draw(st.lists(st.integers(0, 2), min_size=len(ages), max_size=len(ages)))
        messages.append(
            raw_message(
                offset, [append - age for age in ages], append=append, session=session, subject=SUBJECTS[session],
                first_number=numbers[session], application=application, x=range(len(ages)), base_time=append,
                epoch=draw(st.sampled_from([0, 0, 1])),
            )
        )  # fmt: skip
        numbers[session] += len(ages)
    return messages


def cut(draw: st.DrawFn, messages: list[RawMessage]) -> list[list[RawMessage]]:
    """Group messages into takes at random."""
    takes: list[list[RawMessage]] = []
    while messages:
        size = draw(st.integers(1, 4))
        takes.append(messages[:size])
        messages = messages[size:]
    return takes


def block_log(takes: list[list[RawMessage]], spec: WindowSpec) -> list[bytes]:
    """The partition of interactions.minimized that these takes become, with a last tick that closes everything."""
    rules = in_force(spec)
    view = view_of(rules, CONSENTS)
    pipeline = minimiser()
    values = [block_value(pipeline, take, view, T0) for take in takes]
    last = takes[-1][-1]
    return [*values, tick_value(last.offset, last.timestamp_ms + 10**7, rules)]


def content(slot: ClosedSlot) -> Content:
    """Everything that an INSERT of this slot holds, to the byte."""
    rows = slot.rows
    scalars = [
        rows.slot, rows.window_kind, rows.window_start, rows.window_end, rows.step_ms, rows.session, rows.subject,
        rows.policy, rows.policy_version, rows.purposes, rows.screen_width, rows.applications, rows.stored, rows.refused,
    ]  # fmt: skip
    arrays = [(name, column.dtype.str, column.tobytes()) for name, column in sorted(rows.events.items())]
    return (repr(scalars), rows.offsets.tobytes(), *arrays)


@dataclass
class Tables:
    """A store that keeps promises like the real one: a token once, a receipt by its key."""

    windows: dict[str, Content] = field(default_factory=dict)
    slots: dict[str, ClosedSlot] = field(default_factory=dict)
    batches: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    ledger: LedgerRow | None = None
    steps: int = 0

    def received(self) -> Received:
        """What the query of `ledger.received` returns."""
        watermark, through = (self.ledger.watermark, self.ledger.replay_from) if self.ledger else (-1, 0)
        rows = [
            Arrived(r["session"], r["first_number"], r["first_number"] + r["count"], r["append_time"] // DAY_MS)
            for r in (dict(zip(RECEIPT, row, strict=True)) for row in self.batches.values())
            if r["block_offset"] < through and r["count"]
        ]
        oldest = oldest_remembered(watermark)
        return Received(sorted(row for row in rows if row.day >= oldest), watermark)

    def insert(self, slot: ClosedSlot) -> None:
        same = self.windows.setdefault(slot.token, content(slot))
        assert same == content(slot), "a replay made other rows under the same token"
        self.slots.setdefault(slot.token, slot)


class CrashError(Exception):
    """The process dies here."""


def run(values: list[bytes], tables: Tables, crash_at: int | None = None, rest: int = 1) -> None:
    """One life of a windower: read from the ledger on, write every `rest` blocks, die at step `crash_at`."""
    pipeline = WindowPipeline("1", 0, codec_for, tables.ledger, tables.received())
    watermark = pipeline.watermark

    def step() -> None:
        tables.steps += 1
        if tables.steps == crash_at:
            raise CrashError

    for offset in range(pipeline.start_offset or 0, len(values)):
        step()
        assert pipeline.add(offset, values[offset], 0) is None
        assert pipeline.watermark >= watermark
        watermark = pipeline.watermark
        if (offset + 1) % rest and offset + 1 < len(values):
            continue
        receipts = pipeline.receipts()
        step()
        if receipts is not None:
            for row in zip(*(getattr(receipts, name) for name in RECEIPT), strict=True):
                assert tables.batches.setdefault(row[0], row) == row, "a replay wrote another receipt"
            step()
            pipeline.confirm_receipts(receipts)
        for key in pipeline.due():
            tables.insert(pipeline.close(key, STANDING, T0))
            step()
            pipeline.confirm(key)
        row = pipeline.ledger_row(offset + 1)
        if tables.ledger is not None:
            assert row.replay_from >= tables.ledger.replay_from
            assert row.closed_through >= tables.ledger.closed_through
        step()
        tables.ledger = row
    assert pipeline.open_events == 0


def survive(values: list[bytes], crashes: list[int], rest: int) -> Tables:
    """Run to the end through crashes, each so many steps into its life."""
    tables = Tables()
    for after in crashes:
        try:
            run(values, tables, tables.steps + after, rest)
        except CrashError:
            continue
    run(values, tables, None, rest)
    return tables


@given(data=st.data(), messages=raw_logs(), spec=st.sampled_from(SPECS))
@settings(max_examples=120)
def test_a_crash_at_any_point_changes_nothing(
    data: st.DataObject, messages: list[RawMessage], spec: WindowSpec
) -> None:
    """Replaying from the ledger gives the same tokens with the same bytes, and the same receipts."""
    values = block_log(cut(data.draw, messages), spec)
    calm = survive(values, [], 1)
    crashes = data.draw(st.lists(st.integers(1, 25), max_size=4))
    rough = survive(values, crashes, data.draw(st.integers(1, 3)))
    assert rough.windows == calm.windows
    assert rough.batches == calm.batches


@given(data=st.data(), messages=raw_logs(), spec=st.sampled_from(SPECS))
@settings(max_examples=120)
def test_blocks_sent_again_in_other_groups_change_nothing(
    data: st.DataObject, messages: list[RawMessage], spec: WindowSpec
) -> None:
    """A second minimiser starts over from anywhere already covered, and groups as it likes."""
    calm = survive(block_log(cut(data.draw, messages), spec), [], 1)
    takes = cut(data.draw, messages)
    sent = takes[: data.draw(st.integers(0, len(takes)))]
    covered = sum(map(len, sent))
    again = cut(data.draw, messages[data.draw(st.integers(0, covered)) :])
    values = block_log([*sent, *again] or takes, spec)
    crashes = data.draw(st.lists(st.integers(1, 25), max_size=2))
    rough = survive(values, crashes, 1)
    assert rough.windows == calm.windows
    assert without_block(rough) == without_block(calm)


def without_block(tables: Tables) -> dict[int, tuple[Any, ...]]:
    return {offset: row[: RECEIPT.index("block_offset")] for offset, row in tables.batches.items()}


Event = tuple[str, int, int]


def modelled(messages: list[RawMessage], spec: WindowSpec) -> tuple[dict[int, list[Event]], dict[int, int]]:
    """By slot, the (session, number, time) that belong there; by raw offset, how many events of a new batch are late."""
    slots: dict[int, list[Event]] = {}
    late: dict[int, int] = {}
    watermark, known = -1, set[tuple[str, int]]()
    for message in messages:
        header, times = read_raw(message)
        name = (header["session"], header["first_number"])
        if name not in known or not times:
            late[message.offset] = 0
            for i, time in enumerate(times if header["subject"] in CONSENTS else []):
                starts = range(time // spec.every_ms * spec.every_ms, time - spec.size_ms, -spec.every_ms)
                usable = [s for s in starts if s + spec.size_ms + spec.lateness_ms > watermark]
                late[message.offset] += not usable
                for start in usable:
                    slots.setdefault(start, []).append((header["session"], header["first_number"] + i, time))
        if times:
            known.add(name)
        watermark = max(watermark, message.timestamp_ms)
    return slots, late


def read_raw(message: RawMessage) -> tuple[dict[str, Any], list[int]]:
    decoded = codec_for(7).decode([message.value[5:]])
    header = decoded.headers[0]
    return header, (header["base_time"] + decoded.columns["offset_ms"]).tolist()


def stored_events(slot: ClosedSlot) -> list[Event]:
    rows = slot.rows
    row = np.repeat(np.arange(len(rows)), np.diff(rows.offsets)).tolist()
    pairs = zip(row, rows.events["number"].tolist(), rows.events["offset_ms"].tolist(), strict=True)
    return [(rows.session[r], number, rows.window_start[r] + offset) for r, number, offset in pairs]


@given(data=st.data(), messages=raw_logs(), spec=st.sampled_from(SPECS))
@settings(max_examples=120)
def test_every_event_is_where_the_model_puts_it(
    data: st.DataObject, messages: list[RawMessage], spec: WindowSpec
) -> None:
    """In each of its open windows once, stored once in all, or late; kept + dropped + late = input."""
    check_against_the_model(survive(block_log(cut(data.draw, messages), spec), [], 1), messages, spec)


def check_against_the_model(tables: Tables, messages: list[RawMessage], spec: WindowSpec) -> None:
    slots, late = modelled(messages, spec)
    assert {slot.slot_start: sorted(stored_events(slot)) for slot in tables.slots.values()} == {
        start: sorted(events) for start, events in slots.items()
    }
    assert {offset: row[RECEIPT.index("late")] for offset, row in tables.batches.items()} == late
    kept = sum(row[RECEIPT.index("kept")] for row in tables.batches.values())
    assert kept == sum(slot.split.kept for slot in tables.slots.values()) + sum(late.values())


@given(data=st.data(), messages=raw_logs(), spec=st.sampled_from(SPECS))
@settings(max_examples=60)
def test_after_a_release_nothing_of_an_earlier_epoch_is_stored(
    data: st.DataObject, messages: list[RawMessage], spec: WindowSpec
) -> None:
    """It was minimised before, and waited: every event of it is counted as `epoch`, every other one is stored."""
    pipeline = WindowPipeline("1", 0, codec_for, None, Received())
    for offset, value in enumerate(block_log(cut(data.draw, messages), spec)):
        assert pipeline.add(offset, value, 0) is None
    closed = [pipeline.close(key, RELEASED, T0) for key in pipeline.due()]
    headers = [read_raw(message)[0] for message in messages]
    old = {
        (header["session"], number)
        for header in headers
        if not header["epoch"]
        for number in range(header["first_number"], header["captured"])
    }
    slots, _ = modelled(messages, spec)
    assert {slot.slot_start: sorted(stored_events(slot)) for slot in closed} == {
        start: sorted(event for event in events if event[:2] not in old) for start, events in slots.items()
    }
    refused = Counter[str]()
    for slot in closed:
        for counts in slot.rows.refused:
            refused.update(counts)
    primary = [event for start, events in slots.items() for event in events if event[2] < start + spec.every_ms]
    assert refused == Counter(epoch=sum(event[:2] in old for event in primary))


def sent_again(draw: st.DrawFn, messages: list[RawMessage]) -> list[RawMessage]:
    """What arrives when every batch is sent one to three times, some after later ones, each under its own offset."""
    copies = [
        (position + draw(st.sampled_from([0, 0, 0, 1, 2, 5])), message)
        for position, message in enumerate(messages)
        for _ in range(draw(st.sampled_from([1, 1, 2, 3])))
    ]
    copies.sort(key=lambda copy: copy[0])
    append, arrived = 0, []
    for offset, (_, message) in enumerate(copies):
        append = max(append, message.timestamp_ms) + draw(st.sampled_from([0, 0, 30, 800]))
        arrived.append(message._replace(offset=offset, timestamp_ms=append))
    return arrived


@given(data=st.data(), messages=raw_logs(), spec=st.sampled_from(SPECS))
@settings(max_examples=150)
def test_batches_sent_again_under_new_offsets_are_stored_once(
    data: st.DataObject, messages: list[RawMessage], spec: WindowSpec
) -> None:
    """In whatever order they come and wherever the windower dies: the first of each counts, the others leave no trace."""
    arrived = sent_again(data.draw, messages)
    values = block_log(cut(data.draw, arrived), spec)
    calm = survive(values, [], 1)
    check_against_the_model(calm, arrived, spec)
    rough = survive(values, data.draw(st.lists(st.integers(1, 25), max_size=4)), data.draw(st.integers(1, 3)))
    assert (rough.windows, rough.batches) == (calm.windows, calm.batches)


@given(data=st.data(), spec=st.sampled_from(SPECS))
@settings(max_examples=100)
def test_a_producer_that_numbers_as_it_likes_stores_no_number_twice(data: st.DataObject, spec: WindowSpec) -> None:
    """Also where batches overlap in part, and through crashes; and no two receipts claim one number."""
    claims = data.draw(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=10))
    messages = [
        raw_message(offset, range(T0 + 10 * offset, T0 + 10 * offset + n), first_number=first, append=T0 + 50 * offset)
        for offset, (first, n) in enumerate(claims)
    ]
    values = block_log(cut(data.draw, messages), spec)
    calm = survive(values, [], 1)
    rough = survive(values, data.draw(st.lists(st.integers(1, 25), max_size=3)), data.draw(st.integers(1, 3)))
    assert (rough.windows, rough.batches) == (calm.windows, calm.batches)
    receipts = [dict(zip(RECEIPT, row, strict=True)) for row in calm.batches.values()]
    claimed = Counter(n for row in receipts for n in range(row["first_number"], row["first_number"] + row["count"]))
    assert set(claimed.values()) <= {1}
    for slot in calm.slots.values():
        assert set(Counter(number for _, number, _ in stored_events(slot)).values()) <= {1}
    held = sum(row["kept"] - row["late"] for row in receipts)
    assert held == sum(slot.split.kept for slot in calm.slots.values())
    assert all(row["count"] == row["kept"] + sum(row["dropped"].values()) for row in receipts)


@given(
    times=st.lists(st.integers(0, 5_000), max_size=30),
    watermarks=st.lists(st.integers(-1, 6_000), min_size=30, max_size=30),
    spec=st.sampled_from(SPECS),
)
def test_placing_loses_and_doubles_nothing(times: list[int], watermarks: list[int], spec: WindowSpec) -> None:
    """Late or in the primary slot, never both, never twice; other slots of an event are its own too."""
    time, watermark = np.array(times, np.int64), np.sort(np.array(watermarks[: len(times)], np.int64))
    late, slots = place(time, watermark, spec)
    primary = Counter[int]()
    for start, rows in slots:
        indexes = np.arange(len(time))[rows]
        assert ((time[indexes] >= start) & (time[indexes] < start + spec.size_ms)).all()
        primary.update(indexes[time[indexes] < start + spec.every_ms].tolist())
    assert primary == Counter(np.flatnonzero(~late).tolist())


@given(messages=raw_logs(), spec=st.sampled_from(SPECS), place_of=st.integers(1, 14))
@settings(max_examples=60)
def test_a_device_with_a_wrong_clock_harms_itself_alone(
    messages: list[RawMessage], spec: WindowSpec, place_of: int
) -> None:
    """One a day ahead is refused, one a day behind is late; everybody else's windows are the same to the byte."""
    without = survive(block_log([[message] for message in messages], spec), [], 1)
    at = min(place_of, len(messages))
    append = messages[at - 1].timestamp_ms  # so that nothing but their clocks is new
    wrong = [
        raw_message(at, [append + 86_400_000], append=append, session="ahead"),
        raw_message(at + 1, [append - 86_400_000], append=append, session="behind"),
    ]
    moved = [*messages[:at], *wrong, *(replace_offset(m, m.offset + 2) for m in messages[at:])]
    with_them = survive(block_log([[message] for message in moved], spec), [], 1)
    others = {
        token: kept for token, kept in with_them.windows.items() if with_them.slots[token].rows.session != ["behind"]
    }
    assert others == without.windows
    assert with_them.batches[at][3] == 0
    assert with_them.batches[at + 1][4] == 1


def replace_offset(message: RawMessage, offset: int) -> RawMessage:
    return message._replace(offset=offset)
