"""The minimiser against a model that looks at one event at a time."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.control.gate import judge
from schemas.catalogue import KIND_NAMES, SOURCES
from streams.data import RawMessage
from tests.streams_support import (
    ANN,
    BOB,
    RESEARCH,
    T0,
    TRAINING,
    minimiser,
    policy,
    raw_message,
    read_block,
    rule,
    view_of,
)

CAT = "c" * 32
NAMES = ["", "editor", "browser", "mail"]
FIELDS = ["application", "x", "y", "key_class", "pressed"]


@st.composite
def batches(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some batches: subjects in turn, times a little around an append time, some far off, any kind, any field."""
    made = []
    for number in range(draw(st.integers(1, 6))):
        n = draw(st.integers(0, 5))
        offset = st.one_of(st.integers(-3_000, 9_000), st.sampled_from([86_400_000, -86_400_000, 2**61, -(2**61)]))

        def column(values: st.SearchStrategy[int], n: int = n) -> list[int]:
            return draw(st.lists(values, min_size=n, max_size=n))

        made.append(
            {
                "subject": draw(st.sampled_from([ANN, BOB, CAT])),
                "session": f"s{number}",
                "base_time": T0 + draw(st.integers(0, 500)),
                "offsets": column(offset),
                "kinds": column(st.integers(0, len(KIND_NAMES) - 1)),
                "applications": draw(st.permutations(NAMES[1:]).map(lambda names: ["", *names])),
                "application": column(st.integers(0, 3)),
                "x": column(st.integers(-50, 2_000)),
                "y": column(st.integers(-50, 2_000)),
                "pressed": column(st.integers(0, 3)),
                "key_class": column(st.integers(0, 11)),
                "label": column(st.integers(0, 1)),
            }
        )
    return made


@st.composite
def policies(draw: st.DrawFn):
    some = st.lists(st.sampled_from(SOURCES), unique=True), st.lists(st.sampled_from(FIELDS), unique=True)
    return policy(
        grid_px=draw(st.sampled_from([1, 7, 50])),
        resolution_ms=draw(st.sampled_from([1, 10, 333])),
        purposes=tuple(rule(name, draw(some[0]), draw(some[1])) for name in (TRAINING, RESEARCH)),
    )


def message(offset: int, batch: dict[str, Any]) -> RawMessage:
    fields = {name: value for name, value in batch.items() if name != "offsets"}
    times = [batch["base_time"] + each for each in batch["offsets"]]
    return raw_message(offset, times, append=T0 + 1_000, **fields)


def expected(batch: dict[str, Any], in_force, view) -> tuple[list[dict[str, Any]], int]:
    """What of one batch passes, and how many of its events do not: the rules, one event at a time."""
    verdict = judge(view, batch["subject"], T0, 0)
    kept, refused = [], 0
    for i, (offset, kind) in enumerate(zip(batch["offsets"], batch["kinds"], strict=True)):
        time = batch["base_time"] + offset
        if not 946_684_800_000 <= time <= T0 + 1_000 + in_force.future_tolerance_ms or verdict.refusal[kind]:
            refused += 1
            continue
        shown = {name: batch[name][i] if name in verdict.kind_fields[kind] else 0 for name in FIELDS}
        kept.append(
            {
                "number": i,
                "time": time - time % in_force.resolution_ms,
                "kind": kind,
                "application": batch["applications"][shown["application"]],
                "x": shown["x"] - shown["x"] % in_force.grid_px,
                "y": shown["y"] - shown["y"] % in_force.grid_px,
                "pressed": int(shown["pressed"] != 0),
                "key_class": shown["key_class"],
            }
        )
    return kept, refused


@given(batches=batches(), in_force=policies())
@settings(max_examples=150)
def test_the_columns_say_what_the_rules_say_of_each_event(batches: list[dict[str, Any]], in_force) -> None:
    """kept + dropped = input, for each batch and in all; every field as the policy of that subject has it."""
    view = view_of(in_force, {ANN: [TRAINING], BOB: [TRAINING, RESEARCH]})
    messages = [message(offset, batch) for offset, batch in enumerate(batches)]
    out = minimiser().process(0, messages, view, T0)
    header, columns = read_block(out.body)
    model = [expected(batch, in_force, view) for batch in batches]
    assert columns["batch_kept"].tolist() == [len(kept) for kept, _ in model]
    assert columns["batch_count"].tolist() == [len(batch["offsets"]) for batch in batches]
    dropped = [0] * len(batches)
    for batch, count in zip(columns["drop_batch"].tolist(), columns["drop_count"].tolist(), strict=True):
        dropped[batch] += count
    assert dropped == [refused for _, refused in model]
    assert out.stats.split.kept + out.stats.split.dropped == sum(len(batch["offsets"]) for batch in batches)
    names = header["applications"]
    owners = [i for i, (kept, _) in enumerate(model) for _ in kept]
    base = columns["batch_base_time"].tolist()
    events = [
        {
            **{name: int(columns[name][i]) for name in ("number", "kind", "x", "y", "pressed", "key_class")},
            "time": base[owner] + int(columns["offset_ms"][i]),
            "application": names[int(columns["application"][i])],
        }
        for i, owner in enumerate(owners)
    ]
    assert events == [event for kept, _ in model for event in kept]
    shown = {event["application"] for event in events}
    assert set(names) == shown | {""}
