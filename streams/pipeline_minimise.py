"""From raw messages to one minimised block: decode, gate, minimise, encode. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from infra.control.gate import View
from schemas.codec import Codec
from streams.data import BlockOut, RawMessage


class MinimisePipeline:
    """Turns the takes of any number of raw partitions into blocks, one block a take.

    The caller sends each block to the same partition number of
    interactions.minimized and awaits it before it calls again for that
    partition. A take should stay below what one message may hold: a block is
    about as large as the raw messages it covers.

    A partition's state is small (its reference append time, what a tick needs)
    and need not outlive an assignment: `forget` drops it.
    """

    def __init__(
        self,
        worker: str,
        pseudonym_key: bytes,
        codec_for: Callable[[int], Codec],
        *,
        tick_after_ms: int,
    ) -> None:
        """`codec_for` maps a schema id to a codec of interaction_batch.

        It raises UnknownSchemaError for an id that the registry does not have,
        or SchemaError for a schema that no reader of ours can read; both become
        dead letters. Whatever else it raises (a registry that does not answer)
        passes through `process`: try the same take again.
        """

    def process(self, partition: int, messages: Sequence[RawMessage], view: View, now_ms: int) -> BlockOut:
        """Make the block of one take: consecutive messages of one partition, in offset order, at least one.

        Raises NotFreshError when the view is not fresh: keep the take, wait,
        call again. Never raises for what a message holds.
        """
        raise NotImplementedError

    def tick(self, partition: int, now_ms: int) -> BlockOut | None:
        """Return a block without batches when the partition has been quiet for `tick_after_ms` and a window is open.

        Call it every second or so, never between a `process` and the end of its
        send. Returns None when there is nothing to say.
        """
        raise NotImplementedError

    def forget(self, partition: int) -> None:
        """Drop a partition's state; call it when the partition is assigned or revoked."""
