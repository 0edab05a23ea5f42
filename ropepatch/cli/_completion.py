"""What a shell offers after TAB: refs, methods, runtimes, rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

SHELLS = ("bash", "zsh", "fish")
_SCHEME = "hf://"
#: parameters by their names, which mean the same in every command
_REFS = ("ref", "refs", "base", "a", "b", "source")
_METHODS = ("method", "methods")
_RUNTIMES = ("wanted", "runtime", "runtime_a", "runtime_b")


class Offered(click.ParamType):  # type: ignore[type-arg]
    """A text for which a shell is offered what a function finds.

    Args:
        find: from what has been typed to what could follow.
        name: the type's name.
    """

    def __init__(self, find: Callable[[str], Iterable[CompletionItem]], name: str) -> None:
        self.find = find
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What could follow ``incomplete``."""
        return list(self.find(incomplete))


def enrich(command: click.Command) -> click.Command:
    """Give every parameter that takes a ref, a method or a runtime the values that it may have."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            enrich(below)
    kinds = {**dict.fromkeys(_REFS, refs), **dict.fromkeys(_METHODS, methods), **dict.fromkeys(_RUNTIMES, runtimes)}
    for param in command.params:
        find = kinds.get(param.name or "")
        if find is not None and isinstance(param.type, click.types.StringParamType):
            param.type = Offered(find, param.type.name)
    return command


def refs(incomplete: str) -> list[CompletionItem]:
    """Files and folders, which the shell lists itself; after ``hf://`` the models in the Hub's cache."""
    if not incomplete.startswith("hf:"):
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in cached_models() if name.startswith(incomplete)]


def cached_models() -> list[str]:
    """The models that huggingface_hub has in its cache, as refs; read from the names of its folders alone."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    try:
        names = sorted(entry.name for entry in os.scandir(cache) if entry.name.startswith("models--"))
    except OSError:
        return []
    return [_SCHEME + name.removeprefix("models--").replace("--", "/") for name in names]


def methods(incomplete: str) -> list[CompletionItem]:
    """Methods; behind a comma or a plus sign the next one."""
    from ropepatch.methods import REGISTRY

    return _listed(incomplete, [name for name, method in REGISTRY.items() if method.applicable], ",+")


def runtimes(incomplete: str) -> list[CompletionItem]:
    """Runtimes; behind a comma the next one, behind ``@`` the newest release of each span that is known."""
    from ropepatch.runtimes import behaviours, names

    known = list(names())
    name, sign, _ = incomplete[incomplete.rfind(",") + 1 :].partition("@")
    if sign and name in known:
        known = [f"{name}@{'.'.join(map(str, span.newest))}" for span in behaviours(name)]
    return _listed(incomplete, known, ",")


def _listed(incomplete: str, names: Iterable[str], separators: str) -> list[CompletionItem]:
    start = max(incomplete.rfind(sign) for sign in separators) + 1
    before, last = incomplete[:start], incomplete[start:]
    return [CompletionItem(before + name) for name in names if name.startswith(last)]


class Bash(BashComplete):
    """As click has it, but for refs with a colon in them, at which bash takes words apart."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one."""
        args, incomplete = super().get_completion_args()
        words = [*args, incomplete]
        while ":" in words[1:-1]:
            at = words.index(":", 1)
            words[at - 1 : at + 2] = ["".join(words[at - 1 : at + 2])]
        if len(words) > 1 and words[-1] == ":":
            words[-2:] = ["".join(words[-2:])]
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """The item without what bash has already put behind it."""
        value = str(item.value)
        return f"{item.type},{value.removeprefix('hf:') if value.startswith(_SCHEME) else value}"


def script(shell: str, program: str = "ropepatch") -> str:
    """The text that switches completion on when ``shell`` reads it.

    Raises:
        UsageError: the shell is not known.
    """
    from click.shell_completion import get_completion_class

    from ropepatch.errors import UsageError

    kind = get_completion_class(shell) if shell in SHELLS else None
    if kind is None:
        raise UsageError(f"there is no completion for {shell!r}; there is for {', '.join(SHELLS)}")
    variable = f"_{program.replace('-', '_')}_COMPLETE".upper()
    return str(kind(click.Group(), {}, program, variable).source())


def register() -> None:
    """Put this bash in the place of click's."""
    add_completion_class(Bash, "bash")
