"""The help of a command as a manual page has it: arguments by their own names, options in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from typer.core import TyperArgument, TyperCommand

from ..model.settings import Settings
from .errors import ReaderGone

#: Groups of options, each with the first field of Settings that is in it.
_GROUPS = {
    "expected_workers": "The cluster",
    "master_ip": "Addresses and ports",
    "num_cpus": "Resources given to Ray",
    "start_timeout": "How Ray is started",
    "on_worker_loss": "Failures, the end, and logs",
    "state_dir": "Directories and output",
}


#: An option with a longer name has its help below it.
MOST_NAME = 28

Rows = list[tuple[str, str]]
"""Options or arguments, each with its help."""


def group_titles() -> dict[str, str]:
    """The group of each setting's option, by the setting's name."""
    title = ""
    titles = {}
    for field in fields(Settings):
        title = _GROUPS.get(field.name, title)
        titles[field.name] = title
    return titles


class Command(TyperCommand):
    """A command whose arguments are shown as their metavar says: JOB, [JOB], -- COMMAND [ARG]..."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise ReaderGone from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = [self.options_metavar] if self.options_metavar else []
        return [*pieces, *(shown(argument) for argument in self._arguments())]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, rows in self.sections(ctx):
            with formatter.section(title):
                formatter.write("".join(f"{line}\n" for line in table(rows, formatter.width)))

    def sections(self, ctx: Any) -> Iterator[tuple[str, Rows]]:
        """Titles, each with what stands below it."""
        arguments = self._arguments()
        rows = [(alone(shown(argument)), argument.help or "") for argument in arguments]
        groups: dict[str, Rows] = {"Arguments": rows, "Options": []}
        titles = group_titles()
        many = sum(parameter.name in titles for parameter in self.params) > 2
        for parameter in self.get_params(ctx):
            record = None if parameter in arguments else parameter.get_help_record(ctx)
            if record is not None:
                title = titles.get(parameter.name or "", "Options") if many else "Options"
                name, text = record
                text = text.replace("\\[", "[")  # of older Typers, for Rich's markup
                groups.setdefault(title, []).append((name, re.sub(r"(?<![.\d])(\d+)\.0\]", r"\1]", text)))
        return ((title, rows) for title, rows in groups.items() if rows)

    def _arguments(self) -> list[TyperArgument]:
        return [each for each in self.params if isinstance(each, TyperArgument)]


def table(rows: Rows, width: int) -> list[str]:
    """Two columns, as Click writes them, but no option's name is broken at its hyphens.

    >>> table([("--settle SECONDS", "Seconds after --min-workers.")], 42)
    ['  --settle SECONDS  Seconds after', '                    --min-workers.']
    """
    import textwrap

    names = [len(name) for name, _ in rows if len(name) <= MOST_NAME]
    column = max(names, default=MOST_NAME) + 4
    lines = []
    for name, text in rows:
        parts = textwrap.wrap(text, max(width - column - 2, 20), break_on_hyphens=False) or [""]
        if len(name) > MOST_NAME:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{column - 2}}{parts.pop(0)}".rstrip())
        lines += [f"{'':{column}}{part}" for part in parts]
    return lines


def shown(argument: TyperArgument) -> str:
    """An argument in the usage line."""
    return argument.metavar or (argument.name or "").upper()


def alone(text: str) -> str:
    """An argument in the list below it, where brackets say nothing.

    >>> alone("[JOB]"), alone("[JOB]..."), alone("[RAY OPTIONS] -- COMMAND [ARG]...")
    ('JOB', 'JOB...', '[RAY OPTIONS] -- COMMAND [ARG]...')
    """
    return text.replace("[", "").replace("]", "") if text.count("[") == 1 and text.startswith("[") else text
