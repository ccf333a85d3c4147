"""`tidegate produce`: replay recordings, simulate people, record this desktop."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError
from producers.consents import ConsentTo, let_consent
from producers.desktop.cli import desktop

if TYPE_CHECKING:
    from producers.playback import Progress, Script
    from producers.producer import Producer
    from producers.replay import Recording
    from producers.report import Report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Publish interaction events. What the gate refuses (no consent, a switch, no policy) is counted and not sent.",
)
app.command()(desktop)

_AWAY_S = 5.0
"""For how long a broker may not answer before it counts as away."""
_CLOSE_S = 20.0
"""To send what is left at the end: a delivery timeout, as much again for the last batches."""

Speed = Annotated[str, typer.Option(help="How many times as fast as it happened, or `max`: as fast as it is taken.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
SubjectsOnly = Annotated[
    bool,
    typer.Option(
        "--subjects-only",
        help="Print the subjects' identifiers, one a line, and publish no event. See `consent grant`.",
    ),
]
MetricsPort = Annotated[
    int | None, typer.Option(help="Serve /metrics and /healthz on this port; 0 for any.", min=0, max=65535)
]
WaitS = Annotated[float, typer.Option("--wait", help="Seconds to wait for the control state before giving up.", min=0)]


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - one argument an option
    files: Annotated[list[Path], typer.Argument(help="Recordings, or folders of .csv files.")],
    form: Annotated[str, typer.Option("--format", help="Their format: balabit.")] = "balabit",
    speed: Speed = "1",
    subject_key: Annotated[
        Path | None,
        typer.Option(help="Folder of the subjects' key files, by default <home>/subjects; those missing are made."),
    ] = None,
    limit_seconds: Annotated[
        float, typer.Option(help="Play no more than this of each recording.", min=0.1, show_default=False)
    ] = math.inf,
    loop: Annotated[
        bool, typer.Option("--loop", help="Begin again at the end, as a new session, until Ctrl-C.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a file that cannot be read.")] = False,
    consent: ConsentTo = [],  # noqa: B006 - typer reads it and changes nothing
    subjects_only: SubjectsOnly = False,
    metrics_port: MetricsPort = None,
    wait_s: WaitS = 15.0,
    as_json: AsJson = False,
) -> None:
    """Replay recorded mouse sessions as if they happened now.

    Files play side by side. Each is a session of the subject that its folder
    is named after. Example:
        tidegate produce replay producers/recordings --speed 10
    """
    from producers.replay import files_of

    pace = _pace(speed)
    addresses = Addresses.load()
    keys = subject_key if subject_key is not None else addresses.home / "subjects"
    found = files_of(files)
    recordings, errors = _read(found, form, limit_seconds, strict=strict)
    owners = [_key_of(recording, keys) for recording in recordings]
    scripts = [_script(recording, key) for recording, key in zip(recordings, owners, strict=True)]
    consented = let_consent(addresses, owners, consent, quiet=as_json)
    if subjects_only:
        _print_subjects(scripts)
        return
    longest = max(int(recording.offsets[-1]) for recording in recordings)
    report, stopped = _run(addresses, scripts, pace, longest, loop=loop, metrics_port=metrics_port, wait_s=wait_s)
    bad_rows = {str(r.path): list(r.bad_rows) for r in recordings if r.bad_rows}
    _summary(report, len(scripts), {"bad_rows": bad_rows, "bad_files": errors, **consented}, as_json=as_json)
    _exit(report, failed=bool(errors), stopped=stopped and not loop)


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - one argument an option
    people: Annotated[int, typer.Option(help="How many.", min=1, max=100_000)] = 10,
    minutes: Annotated[float, typer.Option(help="How long each one works.", min=0.01, max=10_000)] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same people do the same.", min=0)] = 1,
    speed: Speed = "1",
    consent: ConsentTo = [],  # noqa: B006 - typer reads it and changes nothing
    subjects_only: SubjectsOnly = False,
    metrics_port: MetricsPort = None,
    wait_s: WaitS = 15.0,
    as_json: AsJson = False,
) -> None:
    """Make up a workforce and publish what it does: all kinds of events, heavy-tailed, the same for the same seed.

    They consent to nothing by themselves; --consent lets them:
        tidegate produce simulate --people 20 --consent usability-research
    """
    from producers.simulate import MINUTE_MS, Person, workforce

    pace = _pace(speed)
    scripts = workforce(people, minutes, seed)
    addresses = Addresses.load()
    consented = let_consent(addresses, (Person(seed, index).key for index in range(people)), consent, quiet=as_json)
    if subjects_only:
        _print_subjects(scripts)
        return
    length = int(minutes * MINUTE_MS)
    report, stopped = _run(addresses, scripts, pace, length, loop=False, metrics_port=metrics_port, wait_s=wait_s)
    _summary(report, people, consented, as_json=as_json)
    _exit(report, failed=False, stopped=stopped)


def _pace(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        pace = float(speed)
    except ValueError:
        pace = 0.0
    if not 0 < pace <= 1000:
        raise TidegateError(f"--speed {speed!r} is neither a number between 0 and 1000 nor `max`.", code=2)
    return pace


def _read(
    files: Sequence[Path], form: str, limit_s: float, *, strict: bool
) -> tuple[list[Recording], list[dict[str, str]]]:
    from producers.replay import read

    recordings, errors = [], []
    for path in files:
        try:
            recording = read(path, form, limit_s=limit_s)
        except TidegateError as error:
            if strict or error.code == 2 or len(files) == 1:
                raise
            errors.append({"file": str(path), "error": str(error)})
            print(f"error: {error}", file=sys.stderr)
            continue
        recordings.append(recording)
        if recording.bad_rows:
            print(f"warning: {path}: {_lines(recording.bad_rows)}; left out.", file=sys.stderr)
    if not recordings:
        raise TidegateError("none of the files could be read.")
    return recordings, errors


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10]) + (", …" if len(numbers) > 10 else "")
    return f"line {shown} is no row" if len(numbers) == 1 else f"{len(numbers)} lines are no rows ({shown})"


def _key_of(recording: Recording, keys: Path) -> bytes:
    """Return the key of whom a recording is of, made now where there is none."""
    from infra.control.identity import load_or_create_key

    name = recording.path.resolve().parent.name or "subject"
    return load_or_create_key(keys / f"{name}.key")


def _script(recording: Recording, key: bytes) -> Script:
    from infra.control.identity import subject_of
    from producers.playback import Script

    return Script(subject_of(key), recording.screen, recording.chunks)


def _print_subjects(scripts: Sequence[Script]) -> None:
    print("\n".join(dict.fromkeys(script.subject for script in scripts)))


def _run(
    addresses: Addresses,
    scripts: Sequence[Script],
    speed: float | None,
    length_ms: int,
    *,
    loop: bool,
    metrics_port: int | None,
    wait_s: float,
) -> tuple[Report, bool]:
    """Play the scripts to their end or to the first signal; say which."""
    from infra.telemetry import configure_plain, serve
    from producers.playback import Progress, play
    from producers.producer import Producer
    from producers.settings import ProducerSettings

    addresses.need("kafka")
    configure_plain("producer", "warning")
    # A recording can wait, so it does, instead of dropping.
    settings = ProducerSettings(when_full="wait")
    subjects = {script.subject for script in scripts}
    producer = Producer(
        addresses, settings, subjects=subjects, metrics=_metrics() if metrics_port is not None else None
    )
    server = serve(metrics_port, *producer.loops) if metrics_port is not None else None
    progress = Progress()
    try:
        with _signals(producer, progress), _shown(progress, length_ms, producer) as follow:
            _await_gate(producer, progress, addresses, wait_s)
            producer.wait_registry(wait_s)
            _in_thread(lambda: play(producer, scripts, speed=speed, progress=progress, loop=loop), follow)
            report = producer.close(_CLOSE_S)
    finally:
        producer.close(0.5)
        if server is not None:
            server.close()
    return report, progress.stopped


def _metrics() -> Any:
    from infra.metrics import GateMetrics, ProducerMetrics

    return ProducerMetrics(), GateMetrics()


def _await_gate(producer: Producer, progress: Progress, addresses: Addresses, wait_s: float) -> None:
    """Wait for the gate. To read a long log may take its time; a broker that does not answer is told of soon."""
    waited = min(wait_s, _AWAY_S)
    if producer.wait_ready(waited):
        return
    if not producer.trouble:
        if producer.wait_ready(wait_s - waited):
            return
        waited = wait_s
    if progress.stopped:
        raise typer.Exit(130)
    raise TidegateError(
        f"the gate stayed closed for {waited:g} s, so nothing was captured: {producer.why_closed or 'stopped'}. "
        f"Does the broker at {addresses.kafka} run, and the authority? See `tidegate status`."
    )


def _in_thread(work: Callable[[], None], follow: Callable[[], None]) -> None:
    """Do the work beside the main thread, which stays free for signals and the display."""
    failed: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            failed.append(error)

    thread = threading.Thread(target=guarded, name="tidegate-play")
    thread.start()
    while thread.is_alive():
        follow()
        thread.join(0.2)
    if failed:
        raise failed[0]


@contextmanager
def _signals(producer: Producer, progress: Progress) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the playing in order: what was captured is still sent."""

    def stop(*_: object) -> None:
        progress.stopped = True
        producer.hurry()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown(progress: Progress, length_ms: int, producer: Producer) -> Iterator[Callable[[], None]]:
    """Show how far it has come: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting for the gate", total=length_ms, note="")

        def follow() -> None:
            report = producer.report()
            why = producer.why_closed
            note = f"{report.captured:,} captured, {report.sent:,} sent"
            note += f", {report.spooled:,} batches spooled" if report.spooled else ""
            bar.update(
                task, completed=progress.played_ms, description=f"closed: {why}" if why else "playing", note=note
            )

        yield follow


def _summary(report: Report, sessions: int, more: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"sessions": sessions, **report.as_dict(), **more}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "events", title=f"{sessions} sessions")
    table.columns[1].justify = "right"
    table.add_row("captured", f"{report.captured:,}")
    for reason, count in sorted(report.dropped.items()):
        table.add_row(f"dropped: {reason}", f"{count:,}")
    table.add_row("sent", f"{report.sent:,}")
    if report.spooled or report.unsent:
        table.add_row("batches in the spool, sent at the next start", f"{report.spooled:,}")
        table.add_row("batches neither sent nor spooled", f"{report.unsent:,}")
    Console().print(table)


def _exit(report: Report, *, failed: bool, stopped: bool) -> None:
    if stopped:
        raise typer.Exit(130)
    if failed or report.unsent:
        raise typer.Exit(1)
    if not report.complete:
        raise typer.Exit(3)
