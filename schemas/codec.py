"""Bytes to columns and back: many messages in one pass, no Python per event.

A message is a plain Avro record whose columns are arrays written as one block
with its count negated and its size in bytes, which the format allows so that a
reader may skip. Here it lets a reader step from column to column without
looking inside, join the same column of many messages, and decode all its
numbers in one numpy pass. Any Avro reader reads these bytes, and this reader
reads what any Avro writer makes: blocks without a size, and several blocks, are
only slower.

Bytes are trusted in nothing. A message that breaks a rule is refused alone,
with a reason that holds none of its content, in time and memory bounded by its
size: a row takes at least a byte in some column, so no count is believed beyond
the bytes there are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray

from schemas import varints
from schemas.catalogue import Schema
from schemas.headers import header_reader
from schemas.matching import header_only, limits, owners, spread, targets
from schemas.refusals import Refusal, RefusedError
from schemas.walk import Extents, Layout, walk

Longs = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]

# Up to so many bytes a pass, numpy's cost a call outweighs that a number, and all
# columns are decoded as one; beyond, each alone, for its numbers may all be short.
_SMALL_ENOUGH = 1 << 16

# A Kafka message is 1 MiB at most by default, and a row takes a byte.
MAX_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Decoded:
    """What many messages held. Messages that were refused are in `refused` and nowhere else."""

    headers: list[dict[str, Any]]
    """One a good message, the header fields only. What is in them may be shared: not to be written to."""
    index: list[int]
    """Position of each good message in the input."""
    counts: dict[str, Longs]
    """By group: the rows of each good message."""
    columns: dict[str, Longs]
    """Every column of the reader's schema, joined over the good messages, in order. Enums are indexes. Not to be
    written to: columns that are all zeros may be one array."""
    refused: list[tuple[int, Refusal]]
    """Position and reason of each other message, by position."""


class Codec:
    """Reads messages written with one schema as another, or the same, schema sees them; writes the writer's.

    Where the two differ, Avro's resolution applies to the header; columns the
    writer lacks are zeros, columns the reader lacks are dropped, and enum
    indexes follow their symbols. `max_rows` bounds the rows of a group in one
    message, for reading and for writing.

    Raises SchemaError when a column of one schema is none in the other, or of
    another group.
    """

    def __init__(self, writer: Schema, reader: Schema | None = None, *, max_rows: int = MAX_ROWS) -> None:
        self.writer = writer
        self.reader = reader = reader or writer
        self._read_header = header_reader(writer)
        self._writer_header = header_only(writer)
        self._reader_header = None if reader.fingerprint == writer.fingerprint else header_only(reader)
        self._groups = tuple({**writer.groups, **reader.groups})
        self._group_of = [self._groups.index(column.group) for column in writer.columns]
        self._layout = Layout(self._group_of, len(self._groups), max_rows)
        self._limits = [limits(column) for column in writer.columns]
        self._written_group = {column.name: column.group for column in writer.columns}
        self._targets = targets(writer, reader)

    def decode(self, bodies: Sequence[bytes]) -> Decoded:
        """Decode messages (without their framing) in one pass."""
        index, headers, begins, refused = self._read_headers(bodies)
        found, bad = walk([bodies[position] for position in index], begins, self._layout)
        # A refusal found among the joined columns shifts every row after it, so
        # the others are decoded again. Each round removes at least one message,
        # and each check of each column fires in one round at most: few rounds.
        while True:
            if bad:
                refused.update((index[number], reason) for number, reason in bad.items())
                good = [number for number in range(len(index)) if number not in bad]
                index, headers, found = [index[n] for n in good], [headers[n] for n in good], found.keep(good)
            columns, bad = self._decode_columns(found)
            if not bad:
                break
        return Decoded(
            headers=headers,
            index=index,
            counts={n: rows for n, rows in zip(self._groups, found.rows, strict=True) if n in self.reader.groups},
            columns=columns,
            refused=sorted(refused.items()),
        )

    def encode(self, header: Mapping[str, Any], columns: Mapping[str, Integers]) -> bytes:
        """Encode one message (without its framing) with the writer's schema.

        `header` holds the header fields. A column that is missing, or all
        zeros, is written empty. Raises ValueError for columns that are unknown,
        of unequal length or out of their type's range, and what fastavro raises
        for a header that does not fit: these are bugs, not data.
        """
        self._check(columns)
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._writer_header, header)
        blocks = [b"\0"] * len(self.writer.columns)
        shown: set[str] = set()
        silent: dict[str, tuple[int, bytes]] = {}
        for number, column in enumerate(self.writer.columns):
            values = columns.get(column.name)
            if values is None or not len(values):
                continue
            data, least, most = varints.encode(values)
            low, high = self._limits[number]
            if least < low or most > high:
                raise ValueError(f"column {column.name} holds values beyond its type")
            # One block: the count, negated to say that a size in bytes follows.
            block = varints.one(-len(values)) + varints.one(len(data)) + data + b"\0"
            if least or most:
                blocks[number] = block
                shown.add(column.group)
            else:
                silent.setdefault(column.group, (number, block))
        # A group of nothing but zeros must still say how many rows it has.
        for group in silent.keys() - shown:
            number, block = silent[group]
            blocks[number] = block
        return out.getvalue() + b"".join(blocks)

    def _read_headers(
        self, bodies: Sequence[bytes]
    ) -> tuple[list[int], list[dict[str, Any]], list[int], dict[int, Refusal]]:
        """Read the headers. Returns, by good message, position, header and where its columns begin; and the others."""
        index: list[int] = []
        headers: list[dict[str, Any]] = []
        begins: list[int] = []
        refused: dict[int, Refusal] = {}
        for position, body in enumerate(bodies):
            try:
                header, pos = self._read_header(body, 0)
                if self._reader_header is not None:
                    header = self._resolve_header(body[:pos])
            except IndexError:
                refused[position] = Refusal.TRUNCATED
            except RefusedError as error:
                refused[position] = error.refusal
            else:
                index.append(position)
                headers.append(header)
                begins.append(pos)
        return index, headers, begins, refused

    def _resolve_header(self, head: bytes) -> dict[str, Any]:
        """Read a header again, as the reader's schema sees it. The bytes have been found sound."""
        try:
            resolved: Any = fastavro.schemaless_reader(io.BytesIO(head), self._writer_header, self._reader_header)
        except (fastavro.read.SchemaResolutionError, ValueError, TypeError) as error:
            raise RefusedError(Refusal.UNRESOLVABLE) from error
        return dict(resolved)

    def _decode_columns(self, found: Extents) -> tuple[dict[str, Longs], dict[int, Refusal]]:
        """Decode every column; also say which messages break a rule, by their place in `found`."""
        # Columns that no message fills share one array of zeros a group, which nobody may write to.
        totals = found.rows.sum(axis=1).tolist()
        zeros = {group: np.zeros(total, np.int64) for group, total in zip(self._groups, totals, strict=True)}
        for array in zeros.values():
            array.flags.writeable = False
        columns = {column.name: zeros[column.group] for column in self.reader.columns}
        decoded, bad = self._decode_runs(found)
        if bad:
            return {}, bad  # an index that is no symbol's must not be looked up
        for number, target in enumerate(self._targets):
            if target is None or (number not in decoded and target.codes is None):
                continue
            rows = found.rows[self._group_of[number]]
            values = spread(decoded.get(number), found.sizes[number] > 0, rows)
            if target.codes is not None:
                values = target.codes[values]
                bad.update(owners(values < 0, rows, Refusal.UNRESOLVABLE))
            columns[target.name] = values
        return columns, bad

    def _decode_runs(self, found: Extents) -> tuple[dict[int, Longs], dict[int, Refusal]]:
        """Decode the columns that hold something, in runs. Returns them, and the messages that break a rule."""
        filled = np.flatnonzero(found.sizes.any(axis=1)).tolist()
        decoded: dict[int, Longs] = {}
        not_numbers: dict[int, Refusal] = {}
        beyond: dict[int, Refusal] = {}
        together = filled and int(found.sizes.sum()) < _SMALL_ENOUGH
        for run in [filled] if together else [[number] for number in filled]:
            sizes = found.sizes[run]
            counts = found.rows[[self._group_of[number] for number in run]] * (sizes > 0)
            values, wrong = varints.decode(found.cut_out(run), sizes.ravel(), counts.ravel())
            if wrong.any():
                messages = np.flatnonzero(wrong.reshape(sizes.shape).any(axis=0)).tolist()
                not_numbers.update(dict.fromkeys(messages, Refusal.BAD_VARINT))
                continue
            stops = np.cumsum(counts.sum(axis=1))
            starts = np.concatenate(([0], stops[:-1]))
            low, high = np.array([self._limits[number] for number in run], np.int64).T
            out = (np.minimum.reduceat(values, starts) < low) | (np.maximum.reduceat(values, starts) > high)
            for place, (number, start, stop) in enumerate(zip(run, starts.tolist(), stops.tolist(), strict=True)):
                decoded[number] = values[start:stop]
                if out[place]:
                    broken = (decoded[number] < low[place]) | (decoded[number] > high[place])
                    beyond.update(owners(broken, counts[place], Refusal.BAD_VALUE))
        # What a message is refused for must not hang on how many are in the pass.
        return decoded, beyond | not_numbers

    def _check(self, columns: Mapping[str, Integers]) -> None:
        """Raise ValueError for columns that are unknown, no integers of 64 bits, unequal or too long."""
        rows: dict[str, int] = {}
        for name, values in columns.items():
            group = self._written_group.get(name)
            if group is None:
                raise ValueError(f"schema {self.writer.name} has no column {name}")
            if len(values) != rows.setdefault(group, len(values)):
                raise ValueError(f"column {name} has {len(values)} rows, its group {rows[group]}")
            kind, size = values.dtype.kind, values.dtype.itemsize
            if kind not in "ib" and not (kind == "u" and size < 8):
                raise ValueError(f"column {name} of {self.writer.name} must be integers that fit 64 bits")
        if max(rows.values(), default=0) > self._layout.max_rows:
            raise ValueError(f"more than {self._layout.max_rows} rows in one message of {self.writer.name}")
