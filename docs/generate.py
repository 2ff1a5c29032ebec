"""Writes the pages that are made from the code: python docs/generate.py [--check]

docs/configuration.md      its tables, from config.Settings
docs/troubleshooting.md    its table, from causes.CAUSES

The rest of the pages is written by hand.  A unit test checks that the tables are as the code has them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from raycluster_cli.model.causes import CAUSES
from raycluster_cli.model.settings import Settings, option_name, variable_name

DOCS = Path(__file__).parent

_PARTS = {
    "expected_workers": "The cluster",
    "master_ip": "Addresses and ports",
    "num_cpus": "What Ray gets",
    "start_timeout": "How Ray is started",
    "on_worker_loss": "Faults and time limits",
    "state_dir": "Places",
}


def configuration() -> list[str]:
    """The tables of docs/configuration.md."""
    lines = []
    hints = get_type_hints(Settings)
    for one in fields(Settings):
        if title := _PARTS.get(one.name):
            lines += ["", f"## {title}", "", "| Option | Default | | Commands |", "|---|---|---|---|"]
        names = [option_name(one.name), *one.metadata.get("aliases", ())]
        if hints[one.name] is bool:
            names.append(f"--no-{option_name(one.name)[2:]}")
        option = ", ".join(f"`{name}`" for name in names) + f"<br>`{variable_name(one.name)}`"
        commands = ", ".join(one.metadata["commands"])
        row = (option, _default(one, hints[one.name]), _cell(one.metadata["help"]), commands)
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _default(one: Any, hint: Any) -> str:
    if hint is bool:
        return "on" if one.default else "off"
    if one.default is None or one.default == "":
        return "–"
    return f"{one.default:g}" if isinstance(one.default, float) else str(one.default)


def troubleshooting() -> list[str]:
    """The table of docs/troubleshooting.md."""
    rows = ["| Name | Text in a log, for example | Cause | Remedy |", "|---|---|---|---|"]
    for cause in CAUSES:
        row = (cause.name, _pattern(cause.pattern), _cell(cause.meaning), _cell(cause.remedy))
        rows.append(f"| {' | '.join(row)} |")
    return rows


def _pattern(text: str) -> str:
    """A regular expression as a person reads it: its first alternatives, without its signs.

    >>> _pattern(r"Too many open files|EMFILE.{0,9}x|[Ee]nd of (?:file|line)")
    '`Too many open files`, `EMFILE…x`, `End of file`'
    """
    alternatives, depth, word = [], 0, ""
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if sign == "|" and depth == 0:
            alternatives.append(word)
            word = ""
        else:
            word += sign
    readable = []
    for one in [*alternatives, word][:3]:
        one = re.sub(r"\(\?:([^|)]*)(\|[^)]*)?\)\??", r"\1", one)  # the first of a group
        one = re.sub(r"\[(\w)[^\]]*\][+*?]?", r"\1", one)
        one = re.sub(r"\\d(\{\d+\})?[+*]?(\\\.\\d[+*]?)*", "…", one)
        one = re.sub(r"(\w| )\?", r"\1", one)
        one = re.sub(r"\.(\{[^}]*\}|[*+]\??)|\\S[+*]|\\d[+*]", "…", one)
        readable.append(f"`{one.replace(chr(92), '').replace('|', '')}`")
    return ", ".join(readable)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "configuration.md": ("config", configuration),
    "troubleshooting.md": ("causes", troubleshooting),
}

_END = "<!-- To here. -->\n"


def page(name: str) -> str:
    """A page as it should be: by hand but for what stands between the two marks."""
    module, make = PAGES[name]
    begin = f"<!-- From here made by docs/generate.py from raycluster_cli/{module}.py. -->\n"
    before, found, rest = (DOCS / name).read_text().partition(begin)
    _, found_too, after = rest.partition(_END)
    if not found or not found_too:
        raise SystemExit(f"docs/{name} lacks the marks between which its table goes")
    return before + begin + "\n".join(make()) + "\n" + _END + after


def main() -> int:
    stale = [name for name in PAGES if (DOCS / name).read_text() != page(name)]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is not as the code has it: python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(page(name))
        print(f"docs/{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
