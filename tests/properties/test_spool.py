"""The spool keeps order, loses nothing that was acknowledged to its owner, and stays within its bound."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from infra.errors import TidegateError
from producers.segments import Damage
from producers.spool import Spool

BOUND, SEGMENT = 2000, 300


class SpoolMachine(RuleBasedStateMachine):
    """Any order of append, read, acknowledge, rewind, crash and damage, against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = self.open()
        self.waiting: list[bytes] = []
        """What was appended and not acknowledged, in order."""
        self.read: list[tuple[int, bytes]] = []
        self.serial = 0

    def open(self) -> Spool:
        return Spool(self.folder, max_bytes=BOUND, segment_bytes=SEGMENT)

    @rule(size=st.integers(0, 400))
    def append(self, size: int) -> None:
        payload = f"{self.serial:08d}".encode() + b"x" * size
        self.serial += 1
        if self.spool.append(payload):
            self.waiting.append(payload)
        else:
            assert self.spool.size + len(payload) + 16 > BOUND

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            found = self.spool.read()
            if found is None:
                assert len(self.read) == len(self.waiting)
                return
            assert found[1] == self.waiting[len(self.read)]
            self.read.append(found)

    @rule(count=st.integers(0, 5))
    def acknowledge(self, count: int) -> None:
        done, self.read = self.read[:count], self.read[count:]
        self.spool.ack(number for number, _ in done)
        del self.waiting[: len(done)]

    @rule(place=st.integers(0, 5))
    def acknowledge_out_of_order(self, place: int) -> None:
        if place < len(self.read):
            number, payload = self.read.pop(place)
            self.spool.ack([number])
            self.waiting.remove(payload)

    @rule()
    def rewind(self) -> None:
        self.spool.rewind()
        self.read.clear()

    @rule(torn=st.binary(max_size=40))
    def crash(self, torn: bytes) -> None:
        """The process dies, perhaps in the middle of writing a record: nothing is closed or synced."""
        ahead = set(self.spool._acked_ahead)
        self.spool._lock.close()  # type: ignore[union-attr]  # what the death of the process does
        segments = sorted(self.folder.glob("*.seg"))
        if segments and torn:
            with segments[-1].open("ab") as file:
                file.write(torn[:7])
        self.spool = self.open()
        # What was acknowledged ahead of an earlier record may come again: at least once.
        again = list(iter(self.spool.read, None))
        self.spool.rewind()
        payloads = [payload for _, payload in again]
        assert [p for p in payloads if p in self.waiting] == self.waiting
        assert len(payloads) <= len(self.waiting) + len(ahead)
        self.waiting, self.read = payloads, []

    @rule()
    def restart(self) -> None:
        self.crash(b"")

    @invariant()
    def within_bounds(self) -> None:
        assert sum(path.stat().st_size for path in self.folder.glob("*.seg")) == self.spool.size <= BOUND
        assert len(self.spool) == len(self.waiting)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=60, stateful_step_count=40)


def filled(folder: Path, count: int) -> list[bytes]:
    spool = Spool(folder, max_bytes=1 << 20, segment_bytes=SEGMENT)
    payloads = [f"record {number}".encode() * 3 for number in range(count)]
    assert all(spool.append(payload) for payload in payloads)
    spool.close()
    return payloads


def drain(spool: Spool) -> list[bytes]:
    return [payload for _, payload in iter(spool.read, None)]


@settings(max_examples=60)
@given(st.integers(0, 29), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_costs_the_rest_of_its_segment_and_nothing_else(place: int, at: int, flip: int) -> None:
    """Records of the other segments stay, in order; what is lost is counted; a second opening finds no damage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        payloads = filled(folder, 30)
        segments = sorted(folder.glob("*.seg"))
        victim = segments[place % len(segments)]
        raw = bytearray(victim.read_bytes())
        raw[at % len(raw)] ^= flip
        victim.write_bytes(raw)
        spool = Spool(folder)
        left = drain(spool)
        assert left == [payload for payload in payloads if payload in left]
        assert spool.damage.bytes > 0
        missing = len(payloads) - len(left)
        assert missing >= 1 or victim == segments[-1]
        assert spool.damage.records == (None if victim == segments[-1] else missing)
        spool.close()
        again = Spool(folder)
        assert (again.damage, drain(again)) == (Damage(), left)
        again.close()


@settings(max_examples=40)
@given(st.integers(0, 400))
def test_a_truncated_last_segment_keeps_its_whole_records(cut: int) -> None:
    """A half-written tail is cut off, what stands before it is sent, and new records follow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        payloads = filled(folder, 12)
        last = sorted(folder.glob("*.seg"))[-1]
        size = last.stat().st_size
        with last.open("r+b") as file:
            file.truncate(max(0, size - cut))
        spool = Spool(folder)
        left = drain(spool)
        assert left == payloads[: len(left)]
        assert spool.append(b"new")
        assert drain(spool) == [b"new"]
        spool.close()


def test_everything_damaged_at_once_is_survived(tmp_path: Path) -> None:
    """Damage in the middle leaves a gap in the numbers that reading and acknowledging both step over."""
    payloads = filled(tmp_path, 30)
    for victim in sorted(tmp_path.glob("*.seg"))[1:4]:
        victim.write_bytes(b"rubbish")
    (tmp_path / "position").write_bytes(b"\xff" * 24)
    spool = Spool(tmp_path)
    found = list(iter(spool.read, None))
    assert [payload for _, payload in found] == [payload for payload in payloads if payload in dict(found).values()]
    assert len(spool) == len(found)
    spool.ack(number for number, _ in found)
    assert (len(spool), spool.size) == (0, 0)
    spool.close()


def test_a_second_process_gets_a_spool_of_its_own(tmp_path: Path) -> None:
    """Two producers of one home never write into one directory; what a dead one left is found first."""
    one, two = Spool.open_free(tmp_path), Spool.open_free(tmp_path)
    assert two.append(b"left behind")
    with pytest.raises(TidegateError, match="belongs to another process"):
        Spool(tmp_path / "0")
    one.close()
    two.close()
    heir = Spool.open_free(tmp_path)
    assert drain(heir) == [b"left behind"]
    heir.close()


def test_a_spool_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A clear message that names the path, and no traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TidegateError, match="cannot be written"):
        Spool(tmp_path / "file" / "spool")


def test_a_full_disk_refuses_the_newest_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system writes half a record, the half is taken back and the next one fits behind the last good one."""
    spool = Spool(tmp_path)
    assert spool.append(b"good")
    writer = spool._writer
    assert writer is not None

    class Full:
        """A file on a disk with room for three more bytes."""

        def write(self, data: bytes) -> int:
            return int(writer.write(data[:3]))

        def __getattr__(self, name: str) -> object:
            return getattr(writer, name)

    monkeypatch.setattr(spool, "_writer", Full())
    assert not spool.append(b"too much")
    monkeypatch.undo()
    assert spool.append(b"fits")
    assert drain(spool) == [b"good", b"fits"]
    spool.close()
    again = Spool(tmp_path)
    assert (drain(again), again.damage) == ([b"good", b"fits"], Damage())
    again.close()
