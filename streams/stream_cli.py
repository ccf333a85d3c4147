"""`tidegate stream`: run one worker. Imports nothing heavy before a command is called."""

from __future__ import annotations

from typing import Annotated

import typer

stream = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run a stream processor, one process each; start as many as there are partitions to share. "
    "`tidegate up` does this for you.",
)

MetricsPort = Annotated[
    int, typer.Option(help="Port of /metrics and /healthz on 127.0.0.1; 0 takes any free one.", min=0, max=65535)
]


@stream.command()
def minimise(metrics_port: MetricsPort = 0) -> None:
    """Gate and minimise raw batches: interactions.raw to interactions.minimized.

    Needs the pseudonym key (TIDEGATE_PSEUDONYM_KEY, by default
    keys/pseudonym.key in the home), the broker, the registry, and the store for
    its place in the log. Waits for what is away. Ends on SIGTERM within 5 s.
    """
    from streams.workers import run_minimiser

    run_minimiser(metrics_port)


@stream.command()
def window(metrics_port: MetricsPort = 0) -> None:
    """Put minimised events into windows and store them: interactions.minimized to ClickHouse.

    Needs the broker, the registry and the store. Waits for what is away, and
    loses nothing meanwhile. Ends on SIGTERM within 5 s.
    """
    from streams.workers import run_windower

    run_windower(metrics_port)
