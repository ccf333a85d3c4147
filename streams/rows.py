"""What the windower writes: the rows of a slot, judged once more, and the receipts of raw batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from infra.control import reasons
from infra.control.gate import Drops, Verdict, View, admit, judge
from schemas.events import Events
from streams.blocks import Block
from streams.data import DeadRows, Longs, Receipts, SlotKey, WindowRows
from streams.minimise import withhold
from streams.window import RowKey, Windows, own_applications


class BlockReceipt(NamedTuple):
    """What a block leaves for the `batches` and `deadletters` tables."""

    offset: int
    block: Block
    """Without the batches that were repeats."""
    late: Longs
    """By batch."""


def judged_rows(log: str, partition: int, key: SlotKey, windows: Windows, view: View, now_ms: int) -> WindowRows:
    """Judge the rows of a slot again and write down what remains, and how much does not."""
    verdicts = _verdicts(windows.keys, view, now_ms)
    # Events beyond a window's first step are other windows' to count: they
    # are judged under a second number of the same row.
    events = Events(windows.events.batch * 2 + ~windows.is_primary, windows.events.columns)
    twice = [verdict for verdict in verdicts for _ in range(2)]
    admitted, drops = admit(events, twice, [windows.applications] * len(twice))
    admitted = withhold(admitted)
    row = admitted.events.batch >> 1
    rows = len(verdicts)
    application, names = own_applications(row, admitted.events.columns["application"], windows.applications, rows)
    held = np.bincount(row, minlength=rows)
    keys = [key if n else _nobody(key) for key, n in zip(windows.keys, held.tolist(), strict=True)]
    return WindowRows(
        log=log,
        partition=partition,
        slot=key.start,
        window_kind=key.spec.kind,
        window_start=windows.start.tolist(),
        window_end=windows.end.tolist(),
        step_ms=windows.step_ms.tolist(),
        session=[key.session for key in keys],
        subject=[key.subject for key in keys],
        policy=[key.policy for key in keys],
        policy_version=[key.policy_version for key in keys],
        notice=[key.notice for key in keys],
        purposes=[sorted(verdict.purposes) for verdict in verdicts],
        screen_width=[key.screen_width for key in keys],
        screen_height=[key.screen_height for key in keys],
        applications=names,
        stored=np.bincount(row[admitted.events.batch & 1 == 0], minlength=rows).tolist(),
        refused=_refused(drops, rows),
        offsets=np.concatenate(([0], np.cumsum(held))).astype(np.int32),
        admitted=admitted.with_columns({"application": application}),
    )


def _nobody(key: RowKey) -> RowKey:
    """Of a row that holds no event any more, keep what the books need, and not whose it was."""
    return key._replace(subject="", screen_width=0, screen_height=0)


def _verdicts(keys: Sequence[RowKey], view: View, now_ms: int) -> list[Verdict]:
    """Judge each row by the epoch that it was captured in, as if the policy had only the row's own purposes.

    A purpose consented to since then gives no claim to what was recorded before.
    Nor does the release of a switch: what waited meanwhile, here or in a topic, is
    of an earlier epoch, and refused.
    """
    narrowed = {purposes: _narrowed(view, purposes) for purposes in {key.purposes for key in keys}}
    known: dict[tuple[str, tuple[str, ...], int], Verdict] = {}
    for key in keys:
        if (key.subject, key.purposes, key.epoch) not in known:
            verdict = judge(narrowed[key.purposes], key.subject, now_ms, key.epoch)
            known[key.subject, key.purposes, key.epoch] = verdict
    return [known[key.subject, key.purposes, key.epoch] for key in keys]


def _narrowed(view: View, purposes: Sequence[str]) -> View:
    policy = view.state.policy
    if policy is None:
        return view
    rules = tuple(rule for rule in policy.purposes if rule.name in purposes)
    return View(replace(view.state, policy=replace(policy, purposes=rules)), view.fresh, view.why)


def _refused(drops: Drops, rows: int) -> list[dict[str, int]]:
    counts: list[dict[str, int]] = [{} for _ in range(rows)]
    for batch, code, count in zip(drops.batch.tolist(), drops.reason.tolist(), drops.count.tolist(), strict=True):
        if batch & 1 == 0:
            counts[batch >> 1][reasons.REASONS[code]] = count
    return counts


def receipts_of(log: str, partition: int, waiting: Sequence[BlockReceipt]) -> Receipts:
    """Write down what happened to each raw message of these blocks, repeats left out."""

    def column(name: str) -> list[int]:
        return [value for each in waiting for value in each.block.batches[name].tolist()]

    def dead(name: str) -> list[Any]:
        return [value for each in waiting for value in each.block.dead[name]]

    return Receipts(
        log=log,
        partition=partition,
        raw_offset=column("offset"),
        block_offset=[each.offset for each in waiting for _ in each.block.keys],
        session=[key.session for each in waiting for key in each.block.keys],
        first_number=column("first_number"),
        count=column("count"),
        captured=column("captured"),
        final=column("final"),
        kept=column("kept"),
        late=[late for each in waiting for late in each.late.tolist()],
        producer_dropped=[counts for each in waiting for counts in each.block.producer_dropped],
        dropped=[counts for each in waiting for counts in each.block.dropped],
        append_time=column("append_time"),
        dead=DeadRows(
            log=log,
            partition=partition,
            raw_offset=dead("offset"),
            reason=dead("reason"),
            schema_id=dead("schema_id"),
            size=dead("size"),
            digest=dead("digest"),
            append_time=[each.block.append_time for each in waiting for _ in each.block.dead["reason"]],
        ),
        blocks=len(waiting),
    )
