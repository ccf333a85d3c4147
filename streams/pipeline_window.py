"""From minimised blocks to closed windows of one partition: collect, close, judge again. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable

from infra.control.gate import View
from schemas.codec import Codec
from streams.data import ClosedSlot, DeadLetter, LedgerRow, Receipts, SlotKey


class WindowPipeline:
    """The windows of one partition that are still open, and what is not written yet.

    Made anew on every assignment, with the ledger's row; the caller then seeks
    interactions.minimized to `start_offset` and calls, for each message in
    order, `add`. From time to time, in this order:

    1. `receipts()`, write them to `batches` and `deadletters`, `confirm_receipts(them)`;
    2. for each key of `due()`: `close(key, view, now)`, INSERT with its token, `confirm(key)`;
    3. `ledger_row(next_offset)`, write it; then commit offsets.

    Nothing is forgotten before it is confirmed, so each step can be tried again.
    """

    log: str
    partition: int
    watermark: int
    """Highest append time seen; -1 before any. It comes from the log alone."""
    raw_through: int
    """Highest raw offset seen; -1 before any."""
    raw_gap: int
    """Raw offsets that no block has covered since this object was made."""
    repeats: int
    """Batches skipped since this object was made because an earlier block held them."""

    def __init__(self, log: str, partition: int, codec_for: Callable[[int], Codec], ledger: LedgerRow | None) -> None:
        """`codec_for` as in MinimisePipeline, for minimised_block. `ledger` is None before the first row.

        Raises ValueError when the row belongs to another log or partition.
        """

    @property
    def start_offset(self) -> int | None:
        """Where to read interactions.minimized from: the ledger's `replay_from`; None: from the beginning."""
        raise NotImplementedError

    @property
    def open_events(self) -> int:
        """Events held for windows that are not confirmed yet."""
        raise NotImplementedError

    def add(self, offset: int, value: bytes, now_ms: int) -> DeadLetter | None:
        """Take in the message at `offset` of interactions.minimized, Confluent frame and all.

        Returns a dead letter when it cannot be read, and changes nothing then;
        its `at` is `now_ms`, which serves nothing else. Raises ValueError when
        `offset` is not above the last one.
        """
        raise NotImplementedError

    def due(self) -> list[SlotKey]:
        """Return the slots that the watermark has passed and that are not confirmed, in the order they close."""
        raise NotImplementedError

    def close(self, key: SlotKey, view: View, now_ms: int) -> ClosedSlot:
        """Build the INSERT of one slot: its rows, each judged once more by its pseudonym. Changes nothing.

        `view` must be of control.standing. What the gate refuses stays as a
        count in the row's `refused`. Raises NotFreshError when the view is not
        fresh, KeyError when the slot is not held.
        """
        raise NotImplementedError

    def confirm(self, key: SlotKey) -> None:
        """Forget a slot whose INSERT is done. Raises KeyError when it is not held."""

    def receipts(self) -> Receipts | None:
        """Return the receipts of all blocks not confirmed yet, or None. Changes nothing."""
        raise NotImplementedError

    def confirm_receipts(self, receipts: Receipts) -> None:
        """Forget the blocks that `receipts` covers; those added since stay."""

    def ledger_row(self, next_offset: int) -> LedgerRow:
        """Return the row to write now; `next_offset` is the offset after the last one added.

        Call it once a round of receipts and slots is confirmed; what is not
        confirmed holds `replay_from` and `closed_through` back.
        """
        raise NotImplementedError
