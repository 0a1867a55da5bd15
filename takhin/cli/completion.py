"""``takhin completion``: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a SHELL.

    \b
    To install:
      bash:  takhin completion bash > ~/.local/share/bash-completion/completions/takhin
      zsh:   takhin completion zsh > "${fpath[1]}/_takhin"
      fish:  takhin completion fish > ~/.config/fish/completions/takhin.fish

    \b
    To try it in this shell only (bash 4.4 or newer, zsh):
      eval "$(takhin completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click cannot complete for {shell}")
    completer = found(ctx.find_root().command, {}, "takhin", "_TAKHIN_COMPLETE")
    # Not source(): that runs the shell to learn its version, and the script is often made elsewhere.
    click.echo(completer.source_template % completer.source_vars())
