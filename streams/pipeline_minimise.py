"""From raw messages to one minimised block: decode, gate, minimise, encode. No I/O, no clock."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.control import reasons
from infra.control.gate import Admitted, Drops, Judge, Verdict, View, admit
from infra.control.records import MAX_SKEW_MS, Policy
from infra.errors import TidegateError
from schemas.catalogue import load
from schemas.codec import Codec
from streams.blocks import BatchRows, Cover, write_block
from streams.data import BlockOut, BlockStats, Longs, NotFreshError, RawMessage, Reached, Split, WindowSpec
from streams.minimise import coarsen, own_applications, refuse_misdated, withhold
from streams.takes import Batches, dead_letters, read_take

_POSITION = frozenset(("x", "y"))
_PSEUDONYMS_KNOWN = 50_000  # at some 200 bytes each: 10 MB at most


@dataclass(slots=True)
class _Partition:
    """What is remembered of one raw partition."""

    append_time: int
    """Reference append time of the last message or tick."""
    raw_through: int
    moved_at: int
    """When `append_time` last rose, on this worker's clock."""
    open_until: int
    """The watermark at which the last window that may hold an event of this partition closes."""
    policy: Policy | None


class MinimisePipeline:
    """Turns the takes of any number of raw partitions into blocks, one block a take.

    The caller sends each block to the same partition number of
    interactions.minimized, awaits it, and calls `confirm`, before the next take
    of that partition. Until then nothing of the take is remembered: where the
    send fails, it is processed again, by another view. A take should hold no
    more than MAX_TAKE_BYTES, or one message: a block is about as large as the
    raw messages it covers.

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
        """`codec_for` maps a schema id to a codec that reads it as our interaction_batch.

        It raises UnknownSchemaError for an id that the registry does not have,
        or SchemaError for a schema that no reader of ours can read; both become
        dead letters. Whatever else it raises (a registry that does not answer)
        passes through `process`: try the same take again.
        """
        self._key = pseudonym_key
        self._codec_for = codec_for
        self._tick_after = tick_after_ms
        self._worker = worker
        self._codec = Codec(load("minimised_block"))
        self._judge = Judge()
        self._pseudonyms: dict[str, str] = {}
        self._partitions: dict[int, _Partition] = {}

    def process(
        self, partition: int, messages: Sequence[RawMessage], view: View, now_ms: int, *, read_ms: int | None = None
    ) -> BlockOut:
        """Make the block of one take: consecutive messages of one partition, in offset order, at least one.

        `read_ms` is when this worker first had the take in hand, the same in every
        attempt; None for now. Where the broker does not stamp messages, their
        append times hang on it: what is late must not hang on how often a send failed.
        Raises NotFreshError when the view is not fresh: keep the take, wait,
        call again. Raises TidegateError for a policy whose windows are out of
        range. Never raises for what a message holds.
        """
        if not view.fresh:
            raise NotFreshError(view.why)
        policy = view.state.policy
        spec = window_spec(policy)
        append_times = self._append_times(partition, messages, now_ms if read_ms is None else read_ms)
        batches, faults = read_take(messages, self._codec_for)
        dead = dead_letters(partition, messages, faults, now_ms)
        append_time = append_times[np.array(batches.position, np.int64)]
        admitted, drops = self._gate(batches, append_time, view, now_ms)
        cover = Cover(partition, messages[0].offset, messages[-1].offset, int(append_times.max()), self._worker, policy)
        base_time = batches.of_header("base_time")
        if policy is not None:
            admitted, base_time = coarsen(admitted, base_time, policy.grid_px, policy.resolution_ms)
        rows = self._rows(batches, messages, append_time, base_time, admitted.verdicts, policy)
        admitted, applications = own_applications(admitted, [header["applications"] for header in batches.headers])
        body = write_block(self._codec, cover, admitted, applications, rows, drops, dead)
        stats = BlockStats(
            messages=len(messages),
            split=Split(int(batches.counts.sum()), kept=len(admitted), dropped=drops.total, late=0),
            dropped=drops.by_reason(),
            dead=Counter(letter.reason for letter in dead),
        )
        reached = Reached(int(append_times[-1]), _open_until(len(admitted), cover, spec), policy, now_ms)
        return BlockOut(partition, body, cover.raw_from, cover.raw_through, dead, stats, reached)

    def confirm(self, block: BlockOut) -> None:
        """Go on from a block of `process` that the broker has taken."""
        reached, known = block.reached, self._partitions.get(block.partition)
        if reached is None:
            raise ValueError("a tick is not confirmed")
        moved = known is None or reached.append_time > known.append_time
        self._partitions[block.partition] = _Partition(
            append_time=reached.append_time,
            raw_through=block.raw_through,
            moved_at=reached.at if moved or known is None else known.moved_at,
            open_until=max(reached.open_until, known.open_until if known else -1),
            policy=reached.policy,
        )

    def tick(self, partition: int, now_ms: int) -> BlockOut | None:
        """Return a block without batches when the partition has been quiet for `tick_after_ms` and a window is open.

        Call it every second or so, never between a `process` and its `confirm`.
        Returns None when there is nothing to say.
        """
        known = self._partitions.get(partition)
        if known is None:
            return None
        # A clock set back must not hold the ticks up until it has caught up.
        known.moved_at = min(known.moved_at, now_ms)
        if known.open_until <= known.append_time or now_ms - known.moved_at < self._tick_after:
            return None
        known.moved_at = now_ms
        known.append_time = max(known.append_time, now_ms - self._tick_after)
        through = known.raw_through
        cover = Cover(partition, through + 1, through, known.append_time, self._worker, known.policy)
        return BlockOut(partition, self._codec.encode(cover.header(), {}), through + 1, through)

    def forget(self, partition: int) -> None:
        """Drop a partition's state; call it when the partition is assigned or revoked."""
        self._partitions.pop(partition, None)

    def _append_times(self, partition: int, messages: Sequence[RawMessage], read_ms: int) -> Longs:
        """Return each message's reference append time."""
        known = self._partitions.get(partition)
        previous = known.append_time if known else -1
        times = []
        for message in messages:
            previous = _append_time(message, previous, read_ms)
            times.append(previous)
        return np.array(times, np.int64)

    def _gate(self, batches: Batches, append_time: Longs, view: View, now_ms: int) -> tuple[Admitted, Drops]:
        """Refuse what is misdated, then what the control plane does not allow, and withhold fields."""
        policy = view.state.policy
        dated, misdated = batches.events(), Drops.none()
        if policy is not None:
            latest = append_time + policy.future_tolerance_ms
            dated, misdated = refuse_misdated(dated, batches.of_header("base_time"), latest, view.state.epoch_since)
        verdicts = [self._judge(view, header["subject"], now_ms, header["epoch"]) for header in batches.headers]
        admitted, refused = admit(dated, verdicts, [header["applications"] for header in batches.headers])
        return withhold(admitted), misdated.merge(refused) if len(misdated) else refused

    def _rows(
        self,
        batches: Batches,
        messages: Sequence[RawMessage],
        append_time: Longs,
        base_time: Longs,
        verdicts: Sequence[Verdict],
        policy: Policy | None,
    ) -> BatchRows:
        bits = _bits(verdicts, policy)
        # A screen's size says something only beside a position.
        positions = np.array([shown for _, shown in bits], np.int64)
        return BatchRows(
            session=[header["session"] for header in batches.headers],
            subject=[self._pseudonym(header["subject"]) for header in batches.headers],
            producer_dropped=[_known(header["dropped"]) for header in batches.headers],
            columns={
                "batch_offset": np.array([messages[at].offset for at in batches.position], np.int64),
                "batch_append_time": append_time,
                "batch_first_number": batches.of_header("first_number"),
                "batch_count": batches.counts,
                "batch_captured": batches.of_header("captured"),
                "batch_final": batches.of_header("final"),
                "batch_purposes": np.array([purposes for purposes, _ in bits], np.int64),
                "batch_epoch": batches.of_header("epoch"),
                "batch_base_time": base_time,
                "batch_screen_width": batches.of_header("screen_width") * positions,
                "batch_screen_height": batches.of_header("screen_height") * positions,
            },
        )

    def _pseudonym(self, subject: str) -> str:
        """Return the keyed pseudonym: HMAC-SHA256, its first 32 hex digits."""
        known = self._pseudonyms.get(subject)
        if known is None:
            if len(self._pseudonyms) >= _PSEUDONYMS_KNOWN:
                self._pseudonyms.clear()
            known = hmac.digest(self._key, subject.encode(), "sha256").hex()[:32]
            self._pseudonyms[subject] = known
        return known


def window_spec(policy: Policy | None) -> WindowSpec | None:
    """Return how a policy cuts time; None without one.

    Raises TidegateError for windows out of range: nothing passes until there
    is another policy, and nothing is lost.
    """
    if policy is None:
        return None
    try:
        return WindowSpec(
            policy.window_kind, policy.window_size_ms, policy.window_step_ms, policy.window_gap_ms, policy.lateness_ms
        )
    except ValueError as error:
        raise TidegateError(
            f"policy {policy.name} version {policy.version} cannot be followed: {error}. "
            "Apply a higher version with other windows."
        ) from error


def _append_time(message: RawMessage, previous: int, now_ms: int) -> int:
    """Say when a message was appended; where the broker does not, without letting a device push time forward.

    A timestamp ahead of this worker's clock by more than clocks may differ is
    a device's error: it moves nothing. Otherwise a backlog that holds one such
    message would make all that follow it late.
    """
    stamp = message.timestamp_ms
    if message.append_time_known and stamp >= 0:
        return stamp
    if not 0 <= stamp <= now_ms + MAX_SKEW_MS:
        return previous if previous >= 0 else now_ms
    return min(now_ms, max(previous, stamp))


def _open_until(events: int, cover: Cover, spec: WindowSpec | None) -> int:
    """Bound when the last window of a block's events closes: none is dated further ahead than the policy tolerates."""
    if spec is None or cover.policy is None or not events:
        return -1
    return spec.closes_at(cover.append_time + cover.policy.future_tolerance_ms)


def _bits(verdicts: Sequence[Verdict], policy: Policy | None) -> list[tuple[int, bool]]:
    """Return for each verdict its purposes as bits, and whether it shows positions. Few verdicts are different ones."""
    names = [rule.name for rule in policy.purposes] if policy else []
    known: dict[int, tuple[int, bool]] = {}
    for verdict in verdicts:
        if id(verdict) not in known:
            bits = sum(1 << bit for bit, name in enumerate(names) if name in verdict.purposes)
            known[id(verdict)] = bits, not verdict.fields.isdisjoint(_POSITION)
    return [known[id(verdict)] for verdict in verdicts]


def _known(dropped: Mapping[str, int]) -> Mapping[str, int]:
    """Return a producer's counts under reasons that we know; a word of its own must not reach the tables."""
    if not dropped or reasons.CODES.keys() >= dropped.keys():
        return dropped
    counts: Counter[str] = Counter()
    for reason, count in dropped.items():
        counts[reason if reason in reasons.CODES else reasons.MALFORMED] += count
    return counts
