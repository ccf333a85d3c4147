"""`tidegate switch`: stop, release, and see what is stopped."""

from __future__ import annotations

import typer

from infra.control.commands.switch_engage import switch_engage
from infra.control.commands.switch_release import switch_release
from infra.control.commands.switch_show import switch_list, switch_show
from infra.control.commands.switch_watch import switch_watch
from infra.control.proof_cli import proof_command

switch = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Kill switches: stopping is instant and needs a reason."
)
switch.command("engage")(switch_engage)
switch.command("list")(switch_list)
switch.command("show")(switch_show)
switch.command("watch")(switch_watch)
switch.command("release")(switch_release)
switch.command("proof")(proof_command)
