"""Taking a sample: choose by keys, read the chosen windows in batches, write Parquet and a manifest.

The order of things is what makes it safe to interrupt:

1. The gate says what may be read now (`permit`), or the take ends here.
2. Keys of all candidates are read, subjects judged, windows chosen (`choice`).
3. The chosen windows are read in batches, pass the gate again, and are written
   to a hidden folder beside the target; memory holds one batch, not the sample.
4. The gate is asked once more. Where anything has changed for a window that was
   read (a withdrawal, a switch, a policy, rows deleted meanwhile) the whole take
   is refused: taking it again is cheap, and half a sample would be another one.
5. The manifest goes to the table `manifests`, the gate is asked for the last
   time, and the folder is renamed to its place.

The same data, consents, policy and seed give the same windows and, with the
same pyarrow, the same bytes: see `choice` for the ranks, `sample_files` for the files.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import TidegateError
from infra.store import Store
from schemas import catalogue
from streams.reading import manifest
from streams.reading.choice import Choice, Chooser, Keys
from streams.reading.narrow import stored_columns
from streams.reading.permit import Gate, Permit
from streams.reading.sample_files import Progress, Totals, write
from streams.reading.sample_sql import SLOTS, choose_sql, read_sql

PAGE_WINDOWS = 250_000
"""Windows whose keys are read at once: about 60 bytes each in Arrow, so 15 MB."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    purpose: str
    windows: int
    seed: int
    out: Path
    """A folder that does not exist yet, or is empty."""
    per_subject_cap: int | None = None
    stratify: str = ""
    """One of sample_sql.STRATA, or empty."""
    allocation: str = "equal"
    """One of choice.ALLOCATIONS; means something only with strata."""
    since: int | None = None
    """Window start, UTC epoch ms, inclusive."""
    until: int | None = None
    """Window start, UTC epoch ms, exclusive."""


def take(request: Request, gate: Gate, store: Store, log: str, progress: Progress) -> dict[str, Any]:
    """Take a sample and return its manifest.

    Fewer windows than asked for are taken where there are fewer; the manifest
    says so. Raises TidegateError, leaving no file, when the gate refuses, when
    there is no window at all, or when `request.out` cannot be written.
    """
    _check_target(request.out)
    allowed = gate.permit(request.purpose)
    if request.stratify == "app" and "application" not in allowed.fields:
        raise TidegateError(
            f"the purpose {request.purpose} may not use the field `application`, so it cannot be stratified by it."
        )
    parameters = _parameters(request, allowed, gate.now_ms())
    choice = _choose(request, allowed, gate, store, parameters, progress)
    if not len(choice.keys):
        raise TidegateError(
            f"there is no window that may be read for {request.purpose}: nobody with stored windows consents to it "
            f"under notice {allowed.notice}, or all are outside the time asked for. See `tidegate policy show`."
        )
    with _beside(request.out) as folder:
        totals = write(folder, choice.keys, allowed, gate, store, parameters, progress)
        if totals.windows != len(choice.keys):
            raise TidegateError("windows were deleted while the sample was taken, so it is refused. Take it again.")
        document = manifest.sealed(_document(request, allowed, choice, totals, parameters, log, gate.now_ms()))
        gate.still(allowed, totals.subjects)
        _record(store, document, totals)
        (folder / manifest.FILE).write_text(manifest.text_of(document), encoding="utf-8")
        with gate.passage():
            gate.still(allowed, totals.subjects)
            # rename(2) replaces an empty folder and nothing else: of two takes the quicker one stays.
            folder.rename(request.out)
    return document


def _check_target(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TidegateError(
            f"{out} exists already. A sample is never added to another: name a folder that is not there."
        )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A hidden folder beside the target, gone at the end unless it was renamed."""
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise TidegateError(f"{out} cannot be written: {error.strerror} ({out.parent}).") from error
    try:
        yield folder
    except OSError as error:
        raise TidegateError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parameters(request: Request, allowed: Permit, now_ms: int) -> dict[str, Any]:
    session_kinds = [code for code in allowed.kinds if catalogue.SOURCE_OF_KIND[code] == "session"]
    return {
        "purpose": request.purpose,
        "seed": request.seed,
        "since": max(request.since or 0, now_ms - allowed.retention_ms),
        "until": request.until if request.until is not None else now_ms,
        "kinds": list(allowed.kinds),
        "session_kinds": session_kinds,
        "stopped": list(allowed.stopped),
        "pointer_move": catalogue.KINDS["pointer_move"],
    }


# -- choosing ----------------------------------------------------------------


class _Numbers:
    """Small numbers for strings, in the order of appearance."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        """By string."""

    def __call__(self, words: pa.ChunkedArray) -> NDArray[np.int32]:
        encoded = words.combine_chunks().cast(pa.string()).dictionary_encode()
        numbers = [self.of.setdefault(word, len(self.of)) for word in encoded.dictionary.to_pylist()]
        result: NDArray[np.int32] = np.array(numbers, np.int32)[encoded.indices.to_numpy()]
        return result


def _choose(
    request: Request, allowed: Permit, gate: Gate, store: Store, parameters: Mapping[str, Any], progress: Progress
) -> Choice:
    """Read all keys, page by page, and choose among those whose subjects the gate lets through."""
    chooser = Chooser(request.windows, request.per_subject_cap, bool(request.stratify))
    subjects, strata = _Numbers(), _Numbers()
    judged = np.empty(0, np.bool_)
    slots = store.query_arrow(SLOTS, parameters)
    total, seen = int(np.sum(slots.column("rows").to_numpy())), 0
    for first, last, rows in _pages(slots):
        progress("looking through windows", seen, total)
        sql = choose_sql(request.stratify, bool(allowed.stopped))
        page = store.query_arrow(sql, {**parameters, "first_slot": first, "last_slot": last})
        keys = _keys(page, subjects, strata)
        new = list(subjects.of)[len(judged) :]
        yes = gate.verdicts(allowed, set(new))
        judged = np.r_[judged, np.array([subject in yes for subject in new], np.bool_)]
        chooser.add(keys.take(judged[keys.subject]))
        seen += rows
    return chooser.choose(list(strata.of), request.allocation)


def _pages(slots: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Cut the slots into pages of about PAGE_WINDOWS; yield first slot, last slot, rows."""
    slot, rows = slots.column("slot").to_numpy(), slots.column("rows").to_numpy()
    page = (np.cumsum(rows) - rows) // PAGE_WINDOWS
    for number in np.unique(page):
        there = np.flatnonzero(page == number)
        yield int(slot[there[0]]), int(slot[there[-1]]), int(rows[there].sum())


def _keys(page: pa.Table, subjects: _Numbers, strata: _Numbers) -> Keys:
    return Keys(
        slot=page.column("slot").to_numpy(),
        rank=page.column("rank").to_numpy(),
        subject=subjects(page.column("subject")),
        stratum=strata(page.column("stratum")),
        events=page.column("passing").to_numpy().astype(np.uint32),
    )


# -- the manifest ------------------------------------------------------------


def _document(
    request: Request,
    allowed: Permit,
    choice: Choice,
    totals: Totals,
    parameters: Mapping[str, Any],
    log: str,
    now_ms: int,
) -> dict[str, Any]:
    options = ("windows", "per_subject_cap", "stratify", "allocation", "since", "until")
    return {
        "manifest": secrets.token_hex(16),
        "format": manifest.FORMAT,
        "taken_at": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "tools": {name: version(name) for name in ("tidegate", "pyarrow")},
        "purpose": allowed.purpose,
        "policy": {"name": allowed.policy, "version": allowed.policy_version},
        "notice": allowed.notice,
        "switches": list(allowed.switches),
        "fields": list(allowed.fields),
        "seed": request.seed,
        "options": {name: getattr(request, name) for name in options},
        "query": {
            "choose": choose_sql(request.stratify, bool(allowed.stopped)),
            "read": read_sql(stored_columns(allowed)),
            "parameters": dict(parameters),
            "note": "`choose` runs over all slots in pages. Of the subjects who consent, the lowest ranks are taken "
            "under cap and strata; `read` fetches them by slot and rank.",
        },
        "schemas": {name: catalogue.load(name).fingerprint.hex() for name in catalogue.names()},
        "log": log,
        "counts": {
            "asked": request.windows,
            "candidates": choice.candidates,
            "windows": totals.windows,
            "events": totals.events,
            "subjects": len(totals.subjects),
        },
        "strata": [
            {"stratum": name, "eligible": choice.eligible[name], "chosen": choice.chosen.get(name, 0)}
            for name in sorted(choice.eligible)
        ],
        "files": totals.files,
    }


def _record(store: Store, document: Mapping[str, Any], totals: Totals) -> None:
    """Write the manifest's row, which names the pseudonyms: a withdrawal finds the samples it touches by them."""
    row = {
        "id": document["manifest"],
        "taken_at": datetime.fromisoformat(document["taken_at"]),
        "purpose": document["purpose"],
        "query": document["query"]["choose"],
        "seed": document["seed"],
        "policy": document["policy"]["name"],
        "policy_version": document["policy"]["version"],
        "notice": document["notice"],
        "schema_version": document["schemas"]["minimised_block"],
        "windows": totals.windows,
        "events": totals.events,
        "subjects": len(totals.subjects),
        "pseudonyms": sorted(totals.subjects),
        "files": [file["name"] for file in totals.files],
        "sha256": [file["sha256"] for file in totals.files],
        "manifest": manifest.text_of(document),
    }
    types = {"taken_at": pa.timestamp("ms", "UTC"), "seed": pa.uint64(), "policy_version": pa.int32()}
    columns = {name: pa.array([value], types.get(name)) for name, value in row.items()}
    store.insert_arrow("manifests", pa.table(columns), token=None)
