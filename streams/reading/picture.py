"""One sampled window as a picture: the pointer's path over the screen, and a timeline of what happened.

`load` reads a window out of a sample's Parquet file, `draw` turns it into SVG
or PNG. matplotlib is imported by `draw` alone, and used without pyplot, so
nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.errors import TidegateError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_INK, _MUTED, _PAPER, _LINE = "#1d2733", "#6b7785", "#ffffff", "#dde3ea"
_TIME_COLOURS = "viridis"
_BUTTONS: Mapping[str, tuple[str, str]] = {
    "left": ("o", "#e4572e"),
    "right": ("D", "#8e44ad"),
    "middle": ("s", "#0f7b6c"),
}
_OTHER_BUTTON = ("P", "#55606c")
_WHEEL = "#c98a00"
_BANDS = ("#cfe3f6", "#f9dfc0", "#d8ecd3", "#e6dbf2", "#f6d5da", "#d5ecec")
# Inches. The two panels share their left edge and width; the legend stands right of them.
_WIDTH, _LEFT, _PANEL, _TOP, _GAP, _BOTTOM, _ROW = 10.0, 1.3, 7.1, 0.62, 0.34, 0.62, 0.3
_PAUSE_MS = 700
"""A pointer that rests longer has stopped: its next move begins a new stroke, joined by a faint line."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window of a sample. Event arrays are of one length; a field that the sample leaves out is missing."""

    purpose: str
    session: str
    start_ms: int
    """UTC epoch ms."""
    length_ms: int
    screen: tuple[int, int]
    """Width and height, px; 0 where unknown."""
    events: Mapping[str, NDArray[Any]]
    """By field: numbers, or names for enums and applications. `offset_ms` counts from `start_ms`."""

    @property
    def applications(self) -> list[str]:
        """The applications, the one of most events first."""
        names, counts = np.unique(self.events.get("application", np.empty(0, "U1")), return_counts=True)
        ordered = [str(names[i]) for i in np.argsort(-counts, kind="stable")]
        return [name for name in ordered if name]

    @property
    def shown(self) -> tuple[float, float]:
        """The seconds to show: the whole window, or only where its events are when they crowd into a third of it."""
        whole, seconds = self.length_ms / 1000, self.events["offset_ms"] / 1000
        first, last = float(seconds.min(initial=whole)), float(seconds.max(initial=0.0))
        if len(seconds) < 2 or not 0 < last - first < whole / 3:
            return 0.0, whole
        margin = (last - first) * 0.02
        return max(0.0, first - margin), min(whole, last + margin)


def load(path: Path, row: int | None = None, session: str = "") -> Window:
    """Read one window: the given row, else the most eventful one of the sessions that begin with `session`.

    Raises TidegateError when the file is missing, is no sample, or has no such window.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows = _overview(file, path)
            chosen = _choose(rows, path, row, session)
            return _window(file, chosen)
    except FileNotFoundError as error:
        raise TidegateError(f"{path} is not there. Name a file of a sample, such as windows-00000.parquet.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TidegateError(
            f"{path} cannot be read as Parquet. Name a file of a sample, windows-00000.parquet."
        ) from error


def _overview(file: pq.ParquetFile, path: Path) -> pa.Table:
    needed = {"session", "window_start", "window_end", "events", "offset_ms", "kind"}
    missing = sorted(needed - set(file.schema_arrow.names))
    if missing:
        raise TidegateError(f"{path} is Parquet but no sample: it has no column {', '.join(missing)}.")
    return file.read(columns=["session", "events"])


def _choose(rows: pa.Table, path: Path, row: int | None, session: str) -> int:
    if row is not None:
        if not 0 <= row < rows.num_rows:
            raise TidegateError(f"{path} has no row {row}: it has {rows.num_rows}, counted from 0.")
        return row
    fits = np.array([name.startswith(session) for name in rows.column("session").to_pylist()], np.bool_)
    if not fits.any():
        raise TidegateError(f"{path} has no window of a session that begins with {session!r}.")
    return int(np.argmax(np.where(fits, rows.column("events").to_numpy(), -1)))


def _window(file: pq.ParquetFile, row: int) -> Window:
    group, left = 0, row
    while left >= file.metadata.row_group(group).num_rows:
        left -= file.metadata.row_group(group).num_rows
        group += 1
    table = file.read_row_group(group).slice(left, 1)
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    events = {name: np.array(table.column(name)[0].as_py()) for name in lists}
    one = {name: table.column(name)[0].as_py() for name in table.column_names if name not in lists}
    about = table.schema.metadata or {}
    length = one["window_end"] - one["window_start"]
    return Window(
        purpose=about.get(b"tidegate.purpose", b"").decode(),
        session=one["session"],
        start_ms=round(one["window_start"].timestamp() * 1000),
        length_ms=round(length.total_seconds() * 1000),
        screen=(one.get("screen_width", 0), one.get("screen_height", 0)),
        events=events,
    )


def draw(window: Window, out: Path) -> None:
    """Draw the window to `out`; its ending, .svg or .png, says how. The same window gives the same SVG.

    Raises TidegateError for another ending, or when the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kind = out.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise TidegateError(f"{out} must end in .svg or .png.")
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "svg.fonttype": "path",
        "svg.hashsalt": "tidegate",
        "axes.edgecolor": "#c5ced8",
    }
    with mpl.rc_context(style):
        figure = _composed(Figure(facecolor=_PAPER), window)
        try:
            figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        except OSError as error:
            raise TidegateError(f"{out} cannot be written: {error.strerror}.") from error


def _shows_path(window: Window) -> bool:
    return {"x", "y"} <= window.events.keys() and bool(_positioned(window).any())


def _positioned(window: Window) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.isin(window.events["kind"], ("pointer_move", "pointer_button", "wheel"))
    return mask


def _composed(figure: Figure, window: Window) -> Figure:
    lower = _ROW * (len(np.unique(window.events["kind"])) + 1.2)
    upper = _PANEL * _screen_shape(window) + _GAP if _shows_path(window) else 0.0
    height = _TOP + upper + lower + _BOTTOM
    figure.set_size_inches(_WIDTH, height)
    figure.text(0.02, 1 - 0.33 / height, _title(window), fontsize=13, fontweight="bold", color=_INK, va="center")
    place = (_LEFT / _WIDTH, _BOTTOM / height, _PANEL / _WIDTH, lower / height)
    _timeline(figure.add_axes(place), window)
    if upper:
        place = (_LEFT / _WIDTH, (_BOTTOM + lower + _GAP) / height, _PANEL / _WIDTH, (upper - _GAP) / height)
        _screen(figure.add_axes(place), window)
    return figure


def _screen_size(window: Window) -> tuple[float, float]:
    """Return the screen's size, or what holds all positions where it is not known."""
    there = _positioned(window)
    reach = [float(window.events[name][there].max(initial=0)) * 1.05 + 1 for name in ("x", "y")]
    return (
        (max(window.screen[0], reach[0] / 1.05), max(window.screen[1], reach[1] / 1.05))
        if all(window.screen)
        else (reach[0], reach[1])
    )


def _screen_shape(window: Window) -> float:
    """Return height over width, within what a page shows well."""
    width, height = _screen_size(window)
    return min(max(height / width, 0.3), 1.1)


def _title(window: Window) -> str:
    names = window.applications
    shown = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "no application known"
    count = len(window.events["kind"])
    return f"{window.purpose or 'sample'}  ·  {shown}  ·  {window.length_ms / 1000:g} s, {count:,} events"


# -- the screen --------------------------------------------------------------


def _screen(axes: Axes, window: Window) -> None:
    there = _positioned(window)
    x, y, at = (window.events[name][there].astype(float) for name in ("x", "y", "offset_ms"))
    width, height = _screen_size(window)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", facecolor="#f6f8fa", xticks=[], yticks=[])
    size = f"{width:.0f} × {height:.0f} px" if all(window.screen) else "size of the screen not known"
    axes.annotate(
        size,
        (1, 0),
        (-6, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_MUTED,
    )
    _path(axes, x, y, at / 1000, window.shown)
    _marks(axes, window)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=9, labelcolor=_INK, handletextpad=0.3
        )


def _path(axes: Axes, x: NDArray[Any], y: NDArray[Any], seconds: NDArray[Any], shown: tuple[float, float]) -> None:
    """Strokes in the colours of the timeline's strip; where the pointer rested, a faint line only."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    points = np.column_stack([x, y])
    segments = np.stack([points[:-1], points[1:]], axis=1)
    moving = np.diff(seconds) * 1000 <= _PAUSE_MS
    axes.add_collection(LineCollection(list(segments[~moving]), colors="#aab4bf", linewidths=0.9, linestyles=":"))
    scale = Normalize(*shown)
    strokes = LineCollection(list(segments[moving]), cmap=_TIME_COLOURS, norm=scale, linewidths=2.2, capstyle="round")
    strokes.set_array(seconds[1:][moving])
    axes.add_collection(strokes)
    axes.scatter(x, y, s=7, c=seconds, cmap=_TIME_COLOURS, norm=scale, linewidths=0, zorder=2)
    for place, text in ((0, "start"), (-1, "end")):
        axes.annotate(text, points[place], (7, 0), textcoords="offset points", va="center", fontsize=8, color=_MUTED)


def _marks(axes: Axes, window: Window) -> None:
    events = window.events
    x, y, kind = events["x"], events["y"], events["kind"]
    if "button" in events:
        pressed = events["pressed"] == 1 if "pressed" in events else np.ones(len(kind), np.bool_)
        clicks = (kind == "pointer_button") & pressed
        for name in sorted({str(button) for button in events["button"][clicks]}):
            here = clicks & (events["button"] == name)
            marker, colour = _BUTTONS.get(name, _OTHER_BUTTON)
            label = f"{name} button ({here.sum():,})"
            _mark(axes, x[here], y[here], label, marker=marker, c=colour, s=70, linewidths=1.2, zorder=4)
    if "wheel_y" in events:
        for marker, name, here in (
            ("^", "wheel up", (kind == "wheel") & (events["wheel_y"] > 0)),
            ("v", "wheel down", (kind == "wheel") & (events["wheel_y"] < 0)),
        ):
            if here.any():
                label = f"{name} ({here.sum():,})"
                _mark(axes, x[here], y[here], label, marker=marker, c=_WHEEL, s=38, linewidths=0.8, zorder=3)


def _mark(axes: Axes, x: NDArray[Any], y: NDArray[Any], label: str, **style: Any) -> None:
    """Mark places on the screen with one sign, named in the legend."""
    axes.scatter(x, y, label=label, edgecolors="white", **style)


# -- the timeline ------------------------------------------------------------


def _timeline(axes: Axes, window: Window) -> None:
    """A row a kind, a tick an event; behind them, which application was in front."""
    seconds = window.events["offset_ms"] / 1000
    kind = window.events["kind"]
    names = _ordered_kinds(kind)
    begin, end = window.shown
    _bands(axes, window)
    for row, name in enumerate(names):
        at = seconds[kind == name]
        axes.vlines(at, row - 0.32, row + 0.32, color=_INK, linewidth=1.0, alpha=max(0.25, min(1.0, 60 / len(at))))
        axes.annotate(
            f"{len(at):,}", (end, row), (6, 0), textcoords="offset points", va="center", fontsize=9, color=_MUTED
        )
    axes.set(xlim=(begin, end), ylim=(len(names) - 0.25, -1.15 if window.applications else -0.6))
    if _shows_path(window):
        _strip(axes, window.shown)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    start = datetime.fromtimestamp(window.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    axes.set_xlabel(f"seconds after {start}  ·  session {window.session[:8]}", color=_MUTED, fontsize=9)
    axes.tick_params(axis="y", colors=_INK, labelsize=9, length=0)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=8, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _strip(axes: Axes, shown: tuple[float, float]) -> None:
    """The colours of time, along the axis of time: what the path's colours mean."""
    low = axes.get_ylim()[0]
    axes.imshow(
        np.linspace(0, 1, 256)[None, :],
        cmap=_TIME_COLOURS,
        extent=(*shown, low, low - 0.14),
        aspect="auto",
        zorder=3,
    )


def _ordered_kinds(kind: NDArray[Any]) -> list[str]:
    from schemas.catalogue import KIND_NAMES

    there = set(kind.tolist())
    return [name for name in KIND_NAMES if name in there]


def _bands(axes: Axes, window: Window) -> None:
    """Colour the time that each application was in front, from its first event to the next one's."""
    names = window.applications
    if not names:
        return
    application, (left, right) = window.events["application"], window.shown
    seconds = window.events["offset_ms"] / 1000
    known = np.flatnonzero(application != "")
    first = known[np.r_[True, application[known][1:] != application[known][:-1]]]
    ends = np.r_[seconds[first][1:], right]
    for begin, end, name in zip(seconds[first], ends, application[first], strict=True):
        colour = _BANDS[names.index(str(name)) % len(_BANDS)]
        axes.axvspan(begin, end, ymin=0, ymax=1, color=colour, alpha=0.55, linewidth=0)
        if end - begin > (right - left) * 0.012 * len(str(name)):
            axes.text(begin + (right - left) * 0.004, -0.82, str(name), va="center", fontsize=8.5, color=_INK)
