"""What tests of the stream processors share: a policy, a view, raw messages, blocks."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from infra import telemetry
from infra.control.passages import Passage, Passages
from infra.control.records import SWITCH_TOPIC, Policy, PurposeRule, Switch
from infra.control.state import ControlState, View, Word
from infra.store import StoreError
from schemas import wire
from schemas.catalogue import KINDS, POLICY_FIELDS, SOURCES, load
from schemas.codec import Codec
from streams.blocks import Cover
from streams.data import ClosedSlot, LedgerRow, RawMessage, UnknownSchemaError
from streams.patience import Outage, Patience, Services
from streams.pipeline_minimise import MinimisePipeline
from streams.pipeline_window import WindowPipeline
from streams.received import Received

T0 = 1_767_225_600_000  # 2026-01-01, a multiple of a minute
RAW_ID, BLOCK_ID, OTHER_RAW_ID = 7, 8, 9  # two ids may stand for schemas that read alike
KEY = b"k" * 32
RAW_CODEC = Codec(load("interaction_batch"))
BLOCK_CODEC = Codec(load("minimised_block"))
TRAINING, RESEARCH = "assistant-training", "usability-research"
_versions = count(1)  # verdicts are remembered by the state's version
ANN = "a" * 32
BOB = "b" * 32


def codec_for(schema_id: int) -> Codec:
    try:
        return {RAW_ID: RAW_CODEC, OTHER_RAW_ID: RAW_CODEC, BLOCK_ID: BLOCK_CODEC}[schema_id]
    except KeyError:
        raise UnknownSchemaError(schema_id) from None


def rule(name: str = TRAINING, sources: Sequence[str] = SOURCES, fields: Sequence[str] = POLICY_FIELDS) -> PurposeRule:
    return PurposeRule(name, "for a test", tuple(sources), tuple(fields), 30)


def policy(**changes: Any) -> Policy:
    plain = Policy(
        name="test",
        version=1,
        valid_from=T0 - 10**9,
        valid_until=T0 + 10**10,
        notice="n1",
        purposes=(rule(), rule(RESEARCH)),
        grid_px=1,
        resolution_ms=1,
        future_tolerance_ms=5_000,
        window_kind="tumbling",
        window_size_ms=10_000,
        window_step_ms=10_000,
        window_gap_ms=0,
        lateness_ms=5_000,
        approvers=(),
        applied_at=T0 - 10**9,
        applied_by="test",
    )
    return replace(plain, **changes)


def view_of(
    in_force: Policy | None,
    consents: Mapping[str, Iterable[str]],
    *,
    fresh: bool = True,
    notice: str = "n1",
    **state: Any,
) -> View:
    words = {who: {name: Word(True, notice, T0 - 10**8) for name in names} for who, names in consents.items()}
    state.setdefault("version", next(_versions))
    return View(ControlState(log="1", policy=in_force, consents=words, **state), fresh, "" if fresh else "no heartbeat")


def raw_body(times: Sequence[int], *, kinds: Sequence[int] | int = KINDS["pointer_move"], **fields: Any) -> bytes:
    """An InteractionBatch with events at `times`; other keyword arguments are header fields or columns."""
    n = len(times)
    base = fields.pop("base_time", times[0] if n else T0)
    header = {
        "session": "s1", "subject": ANN, "producer": "test/1", "epoch": 0, "first_number": 0, "dropped": {},
        "final": False, "base_time": base, "screen_width": 1920, "screen_height": 1080,
        "applications": ["", "editor", "browser"], "labels": ["", "Save"],
    }  # fmt: skip
    header |= {name: fields.pop(name) for name in list(fields) if name in header}
    header["captured"] = fields.pop("captured", header["first_number"] + n)
    columns = {
        "offset_ms": np.array([time - base for time in times], np.int64),
        "kind": np.broadcast_to(np.asarray(kinds, np.int64), n),
        **{name: np.broadcast_to(np.asarray(value, np.int64), n) for name, value in fields.items()},
    }
    return RAW_CODEC.encode(header, columns)


def raw_message(offset: int, times: Sequence[int], *, append: int | None = None, **fields: Any) -> RawMessage:
    stamp = append if append is not None else max(times, default=T0)
    return RawMessage(offset, stamp, True, wire.frame(RAW_ID, raw_body(times, **fields)))


def minimiser(**changes: Any) -> MinimisePipeline:
    return MinimisePipeline("test/1", KEY, codec_for, **{"tick_after_ms": 1_000, **changes})


def read_block(body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    decoded = BLOCK_CODEC.decode([body])
    assert not decoded.refused
    return decoded.headers[0], decoded.columns


def block_value(pipeline: MinimisePipeline, messages: Sequence[RawMessage], view: View, now_ms: int) -> bytes:
    """The message of interactions.minimized that a take of partition 0 becomes."""
    block = pipeline.process(0, messages, view, now_ms)
    pipeline.confirm(block)
    return wire.frame(BLOCK_ID, block.body)


def tick_value(raw_through: int, append_time: int, in_force: Policy) -> bytes:
    """The message of a tick of partition 0."""
    cover = Cover(0, raw_through + 1, raw_through, append_time, "test/1", in_force)
    return wire.frame(BLOCK_ID, BLOCK_CODEC.encode(cover.header(), {}))


def pseudonym(subject: str) -> str:
    return hmac.digest(KEY, subject.encode(), "sha256").hex()[:32]


CONSENTS = {ANN: [TRAINING], BOB: [TRAINING, RESEARCH]}
STANDING = view_of(policy(), {pseudonym(who): names for who, names in CONSENTS.items()})
NOW = T0 + 10**6
HOPPING = {"window_kind": "hopping", "window_size_ms": 10_000, "window_step_ms": 4_000}
SESSIONS = {"window_kind": "session", "window_size_ms": 10_000, "window_step_ms": 10_000, "window_gap_ms": 1_000}


class Log:
    """interactions.minimized/0 as one minimiser writes it."""

    def __init__(self, **changes: Any) -> None:
        self.policy = policy(**changes)
        self.values: list[bytes] = []
        self._minimiser = minimiser()

    def take(self, *messages: RawMessage, consents: Mapping[str, Sequence[str]] = CONSENTS) -> Log:
        self.values.append(block_value(self._minimiser, messages, view_of(self.policy, consents), NOW))
        return self

    def tick(self, raw_through: int, at: int) -> Log:
        self.values.append(tick_value(raw_through, at, self.policy))
        return self

    def windower(self, ledger: LedgerRow | None = None) -> WindowPipeline:
        pipeline = WindowPipeline("1", 0, codec_for, ledger, Received())
        for offset, value in enumerate(self.values):
            if offset >= (pipeline.start_offset or 0):
                assert pipeline.add(offset, value, NOW) is None
        return pipeline


def close_all(pipeline: WindowPipeline, view: View = STANDING) -> list[ClosedSlot]:
    return [pipeline.close(key, view, NOW) for key in pipeline.due()]


class OpenGate:
    """A gate whose view a test sets; its passages are real."""

    def __init__(self, view: View) -> None:
        self.now = view
        self._passages = Passages(self.view)

    def view(self) -> View:
        return self.now

    def enter(self) -> Passage:
        return self._passages.enter()

    def acknowledged(self) -> int:
        """The last offset of control.switch that everything under way was judged by."""
        return self._passages.settled()[1][SWITCH_TOPIC]


def before_and_after(consents: Mapping[str, Iterable[str]]) -> tuple[View, View]:
    """The view that lets these subjects pass, at offset 5 of control.switch, and the one of offset 6, which stops all."""
    switch = Switch("w", "everything", "", True, "test", "me", T0, 0)
    lasting = policy(valid_until=T0 + 10**13)  # agents go by the clock on the wall
    before = view_of(lasting, consents, applied={SWITCH_TOPIC: 5})
    return before, view_of(lasting, consents, applied={SWITCH_TOPIC: 6}, switches={"w": switch})


def closed(view: View) -> View:
    """The same state, not fresh."""
    return View(view.state, fresh=False, why="no heartbeat")


def patient(beat: Callable[[], None]) -> Services:
    """Patience as a worker's, for errors of the network and of the store."""
    telemetry.configure("test")  # another test may have left it writing to a stderr that is closed
    away = Patience(Outage("it", "nowhere"), lambda e: isinstance(e, (OSError, StoreError)), beat=beat)
    return Services(away, away, away)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a condition of the code under test, which signals nothing
            await asyncio.sleep(0.002)
