"""`tidegate demo`: the whole path once, end to end, for somebody who has never seen it.

Everything it does is an ordinary command, started as a process and named on
the screen, so that a reader can run the same by hand. It only looks into the
store by itself, to show progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError

if TYPE_CHECKING:
    from rich.console import Console

    from infra.store import Store

APPROVERS = ("anna", "ben")
"""Whose signatures allowing more needs here; in earnest, two people with a key each."""
PURPOSES = ("assistant-training", "usability-research")
SWITCH = "demo-stop"
REFUSER = 0
"""Which simulated person consents to nothing."""
POLL_S = 0.4
SETTLE_S = 60.0
"""How long the last windows may take to close: size, lateness and the tick, several times over."""

PROGRESS_SQL = """
SELECT (SELECT sum(count) + 0 FROM batches FINAL WHERE log = {log:String}) AS read,
       (SELECT sum(stored) FROM windows WHERE log = {log:String}) AS stored,
       (SELECT count() FROM windows WHERE log = {log:String}) AS windows,
       (SELECT uniqExact(session) FROM batches WHERE log = {log:String}) AS sessions
"""

QUESTION = """
SELECT application, count() AS events, countIf(kind = 'key') AS keys,
       countIf(kind = 'pointer_button') AS clicks, uniqExact(subject) AS people
FROM interactions WHERE application != ''
GROUP BY application HAVING people >= 5 ORDER BY events DESC LIMIT 8
"""

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the sample, the picture and the logs go; replaced.")] = Path(
        "demo-out"
    ),
    people: Annotated[int, typer.Option(help="Simulated people.", min=10, max=5000)] = 200,
    seconds: Annotated[float, typer.Option(help="How long events stream.", min=5, max=600)] = 14.0,
    recordings: Annotated[
        Path | None,
        typer.Option(help="Folder of recordings to replay; by default ../shared/data, else the project's own."),
    ] = None,
) -> None:
    """Show the whole path: recordings in; gated, minimised, windowed; sampled out.

    Takes about a minute, leaves a sample, a manifest and a picture in the
    output folder, and nothing running.
    """
    # Ctrl-C and a polite kill both end in `finally`, so that nothing is left running.
    # SIGINT too: a shell that starts it in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from rich.console import Console

    run = Demo(Console(highlight=False), out, people, seconds, recordings)
    try:
        run.all()
    finally:
        run.take_down()


@dataclass
class Demo:
    """One run; every step prints what it does and what came of it."""

    console: Console
    out: Path
    people: int
    seconds: float
    recordings: Path | None
    producers: list[subprocess.Popen[str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def home(self) -> Path:
        """The demo's own stack, apart from any other."""
        return self.out / "home"

    def all(self) -> None:
        """Run every step in order."""
        self._prepare()
        self._step("Bring up the stack: broker, store, registry, authority, workers")
        self._show("up", "--detach")
        self._step("Say what is allowed, and who agreed")
        self._allow()
        self._step(f"Stream recordings and {self.people} simulated people, for {self.seconds:.0f} s")
        told = self._stream()
        self._step("The books: every event is accounted for")
        self._books(told)
        self._step("Prove that the stop held, from the tables and the log alone")
        self._proof()
        self._step("Ask the tables a question")
        self.console.print(f"[dim]{QUESTION.strip()}[/dim]")
        self._show("store", "query", QUESTION)
        self._step("Take a sample for one purpose, with its manifest; draw one window")
        self._sample()
        self._next()

    def take_down(self) -> None:
        """End what is still running; quiet, and safe to call twice."""
        for process in self.producers:
            if process.poll() is None:
                process.terminate()
        for process in self.producers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        if self.home.exists():
            subprocess.run(self._command("down"), env=self._env(), capture_output=True, text=True, check=False)
            self.console.print("[dim]The stack is down; nothing is left running.[/dim]")

    # -- steps ---------------------------------------------------------------

    def _prepare(self) -> None:
        if self.home.exists():
            # A demo that was killed outright may have left its stack.
            subprocess.run(self._command("down"), env=self._env(), capture_output=True, check=False)
        shutil.rmtree(self.out, ignore_errors=True)
        try:
            self.home.mkdir(parents=True)
        except OSError as error:
            raise TidegateError(
                f"cannot make {self.home} ({error.strerror}): choose another folder with --out."
            ) from error

    @property
    def _signed(self) -> list[str]:
        return [word for name in APPROVERS for word in ("--key", name)]

    def _allow(self) -> None:
        for name in APPROVERS:
            self._call("keys", "new", name)
        policy = str(self.out / "policy.yaml")
        named = [word for name in APPROVERS for word in ("--approver", name)]
        self._show("policy", "new", policy, "--name", "demo", *named)
        self._show("policy", "apply", policy, *self._signed)
        files = self._files()
        self.replayed = self._lines("produce", "replay", "--subjects-only", *files)
        simulated = self._lines("produce", "simulate", "--people", str(self.people), "--seed", "7", "--subjects-only")
        willing = self.replayed + simulated[:REFUSER] + simulated[REFUSER + 1 :]
        for purpose in PURPOSES:
            words = ("consent", "grant", "--purpose", purpose, "--file", "-", *self._signed)
            self._call(*words, given="\n".join(willing))
        self.console.print(
            f"{len(willing)} people consented to {' and '.join(PURPOSES)}; one consented to nothing; "
            "one of the recorded will withdraw half-way."
        )

    def _files(self) -> list[str]:
        shared = self.recordings or Path("..") / "shared" / "data" / "balabit"
        found = sorted(str(path) for path in shared.rglob("*.csv"))
        if found:
            self.source = f"{len(found)} real recordings in {shared}"
            return found
        if self.recordings is not None:
            raise TidegateError(f"no .csv recording below {self.recordings}.")
        own = sorted(str(path) for path in (Path(__file__).parents[1] / "producers" / "recordings").rglob("*.csv"))
        self.source = f"{len(own)} made-up recordings of the project's own"
        return own

    def _stream(self) -> Mapping[str, int]:
        minutes = f"{self.seconds / 60:.4f}"
        self._start(
            "produce",
            "replay",
            *self._files(),
            "--speed",
            "10",
            "--limit-seconds",
            f"{self.seconds * 10:.0f}",
            "--json",
        )
        self._start("produce", "simulate", "--people", str(self.people), "--minutes", minutes, "--seed", "7", "--json")
        from rich.markup import escape

        self.console.print(
            f"[dim]{escape(self.source)}, ten times as fast as recorded; synthetic people as fast as they live.[/dim]"
        )
        self._watch()
        return self._summaries()

    def _watch(self) -> None:
        """Live progress until the producers end; a withdrawal, a stop and its release fall in between."""
        from infra.store import Store

        addresses = Addresses.load(self.home, environ={})
        store = Store(addresses)
        begun = time.monotonic()
        due = [(0.3, self._withdraw), (0.5, self._stop), (0.7, self._release)]
        with self._live() as show:
            while any(process.poll() is None for process in self.producers):
                elapsed = time.monotonic() - begun
                while due and elapsed > self.seconds * due[0][0]:
                    due.pop(0)[1]()
                show(self._progress(store, addresses.log, elapsed))
                time.sleep(POLL_S)
            show(self._progress(store, addresses.log, time.monotonic() - begun))

    def _withdraw(self) -> None:
        self._call("consent", "withdraw", "--subject", self.replayed[0])
        self.console.print("One recorded person has withdrawn: from here on their events are refused, and counted.")

    def _stop(self) -> None:
        told = self._call(
            "switch", "engage", "--scope", "everything", "--reason", "showing that it stops", "--id", SWITCH
        )
        self._quote(f"switch engage --scope everything --reason … --id {SWITCH}", told)

    def _release(self) -> None:
        told = self._call("switch", "release", SWITCH, "--reason", "shown", *self._signed)
        self._quote(f"switch release {SWITCH} --reason … --key anna --key ben", told)

    def _quote(self, command: str, told: str) -> None:
        from rich.markup import escape

        self.console.print(f"[dim]$ tidegate {escape(command)}[/dim]\n{escape(told.rstrip())}")

    def _proof(self) -> None:
        told = self._call("switch", "proof", SWITCH)
        self._quote(f"switch proof {SWITCH}", told[told.index("\nfrom the last acknowledgement") :])
        self.console.print("[dim]It prints its queries too, for anyone to run again; they are left out here.[/dim]")

    def _books(self, told: Mapping[str, int]) -> None:
        self.console.print("[dim]The last windows close when their time and the lateness have passed.[/dim]")
        self._show("books", "--wait", f"{SETTLE_S:.0f}", "--expect", str(told["captured"]))
        captured = json.loads(self._call("books", "--json"))["captured"]
        if captured != told["captured"]:
            raise TidegateError(
                f"the producers say that they captured {told['captured']:,} events, the books say {captured:,}. "
                f"The logs are in {self.home / 'logs'}."
            )
        self.console.print(f"The producers counted [bold]{captured:,}[/bold] events themselves: the same.")

    def _sample(self) -> None:
        sample = self.out / "sample"
        self._show(
            "sample", "take", "--purpose", PURPOSES[0], "--windows", "200", "--seed", "1", "--per-subject-cap", "20",
            "--out", str(sample),
        )  # fmt: skip
        self._show("sample", "verify", str(sample))
        self.picture = self.out / "window.svg"
        files = sorted(sample.glob("*.parquet"))
        self._show("sample", "show", str(files[0]), "--out", str(self.picture))

    def _next(self) -> None:
        from rich.markup import escape

        self._step(f"Done, in {time.monotonic() - self.started:.0f} s")
        for name, what in (
            (self.out / "sample" / "manifest.json", "what was sampled, for what, from which rows"),
            (self.picture, "one window, drawn"),
            (self.home / "logs", "what every part said"),
        ):
            self.console.print(f"  {escape(str(name))}  [dim]{what}[/dim]", soft_wrap=True)
        self.console.print("\nTry next:")
        for command in (
            *_activate(),
            "tidegate up --detach",
            "tidegate keys new anna; tidegate keys new ben",
            "tidegate policy new policy.yaml --approver anna --approver ben",
            "tidegate policy apply policy.yaml --key anna --key ben",
            "tidegate produce simulate --people 20 --minutes 1 --seed 1 --consent assistant-training",
            'tidegate switch engage --scope everything --reason "trying it"',
            "tidegate switch list",
            "tidegate books",
            "tidegate down",
        ):
            self.console.print(f"  {command}", markup=False)

    # -- how steps run -------------------------------------------------------

    def _step(self, title: str) -> None:
        self.console.print(f"\n[bold cyan]{time.monotonic() - self.started:4.0f} s[/bold cyan]  [bold]{title}[/bold]")

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tidegate", *words]

    def _env(self) -> dict[str, str]:
        # The demo is about its own stack, whatever production the shell points at.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        keys = {"TIDEGATE_KEYS": str((self.out / "keys").absolute())}
        return {**kept, **keys, "TIDEGATE_HOME": str(self.home.absolute())}

    def _show(self, *words: str) -> None:
        """Run a command with its own output on the screen."""
        from rich.markup import escape

        shown = " ".join(word if "\n" not in word else '"…"' for word in words)
        shown = shown if len(shown) < 110 else shown[:110] + " …"
        self.console.print(f"[dim]$ tidegate {escape(shown)}[/dim]")
        self._check(subprocess.run(self._command(*words), env=self._env(), check=False), words)

    def _call(self, *words: str, given: str | None = None) -> str:
        done = subprocess.run(
            self._command(*words), env=self._env(), input=given, capture_output=True, text=True, check=False
        )
        self._check(done, words)
        return done.stdout

    def _lines(self, *words: str) -> list[str]:
        return self._call(*words).split()

    def _check(self, done: subprocess.CompletedProcess[Any], words: tuple[str, ...]) -> None:
        if done.returncode:
            said = (done.stderr or "").strip()
            raise TidegateError(
                f"`tidegate {' '.join(words[:2])}` ended with exit code {done.returncode}. {said} "
                f"The logs are in {self.home / 'logs'}."
            )

    def _start(self, *words: str) -> None:
        with (self.home / f"{words[1]}.err").open("w") as errors:
            self.producers.append(
                subprocess.Popen(
                    self._command(*words), env=self._env(), stdout=subprocess.PIPE, stderr=errors, text=True
                )
            )

    def _summaries(self) -> Mapping[str, int]:
        captured = 0
        for process in self.producers:
            text, _ = process.communicate()
            if process.returncode:
                raise TidegateError(f"a producer ended with exit code {process.returncode}; see {self.home}/*.err.")
            captured += int(json.loads(text)["captured"])
        return {"captured": captured}

    def _progress(self, store: Store, log: str, elapsed: float) -> dict[str, float]:
        found = store.query_rows(PROGRESS_SQL, {"log": log})
        return {**dict(zip(found.columns, found.rows[0], strict=True)), "elapsed": elapsed}

    @contextlib.contextmanager
    def _live(self) -> Iterator[Any]:
        """A live line on a terminal; a plain one every few seconds elsewhere."""
        from rich.live import Live
        from rich.table import Table

        def table(p: Mapping[str, float]) -> Table:
            grid = Table.grid(padding=(0, 3))
            grid.add_row(*(f"[bold]{p[k]:,.0f}[/bold] {text}" for k, text in _SHOWN))
            return grid

        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4) as live:
                yield lambda p: live.update(table(p))
            return
        last = [0.0]

        def plain(p: Mapping[str, float]) -> None:
            if time.monotonic() - last[0] >= 4:
                last[0] = time.monotonic()
                self.console.print(table(p))

        yield plain


def _activate() -> tuple[str, ...]:
    """What puts `tidegate` on the PATH, where it is not there already."""
    activate = Path(sys.prefix) / "bin" / "activate"
    here = shutil.which("tidegate") and os.environ.get("VIRTUAL_ENV")
    return () if here or not activate.exists() else (f". {os.path.relpath(activate)}",)


_SHOWN = (
    ("elapsed", "s"),
    ("sessions", "sessions"),
    ("read", "events through Kafka"),
    ("stored", "stored"),
    ("windows", "windows"),
)
