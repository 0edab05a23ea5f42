"""``ropepatch completion``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

#: how each shell is told, for good
_INSTALL = {
    "bash": 'add to ~/.bashrc: eval "$(ropepatch completion bash)"',
    "zsh": 'add to ~/.zshrc, behind compinit: eval "$(ropepatch completion zsh)"',
    "fish": "ropepatch completion fish > ~/.config/fish/completions/ropepatch.fish",
}


@click.command(
    epilog=examples("completion bash >> ~/.bashrc", "completion fish > ~/.config/fish/completions/ropepatch.fish")
)
@click.argument("shell", type=click.Choice(tuple(_INSTALL)))
@standard
def command(out: Output, shell: str) -> None:
    """Print what makes a shell complete commands and names.

    Commands, options, files, models in the Hub's cache behind hf://, methods, runtimes with their releases, and the
    numbers of rules are completed.
    """
    from ropepatch.cli._completion import script

    text = script(shell)
    if out.json:
        out.document({"schema": "ropepatch.completion/1", "shell": shell, "script": text})
        return
    print(text)
    out.hint(_INSTALL[shell])
