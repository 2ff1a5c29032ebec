"""Writes the parts of the documentation that come from the code: python docs/generate.py [--check]

docs/commands.md           a section for each command, from the command line
docs/configuration.md      tables of the settings, from model.settings.Settings
docs/troubleshooting.md    the table of known texts, from model.causes.CAUSES
docs/modules.md            a table of the modules for each package, from their docstrings

All other text is written by hand. A unit test compares the generated parts with the code.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import raycluster_cli
from raycluster_cli.model.causes import CAUSES
from raycluster_cli.model.settings import Settings, option_name, variable_name

DOCS = Path(__file__).parent

#: The packages, the one that imports from all others first, and what each is for.
PACKAGES = {
    "cli": "the commands: options in, exit code out",
    "api": "clusters from Python: SlurmCluster, LocalCluster",
    "ops": "what works from outside: status, why, logs, attach, stop, doctor, submit",
    "functions": "the functions for Python programs that are a rank of a job",
    "supervisor": "the run of a head or worker: keeper, guards, driver",
    "service": "the watch over a server (--service): health, idleness",
    "staging": "the copy of the environment on local disks (--stage-env)",
    "node": "one Ray node on this machine: directory, grants, resources",
    "rayproc": "Ray's processes: plan, start, companion, health, private parts",
    "state": "the cluster's record: read, write, lease, catalogue",
    "autoscale": "clusters that grow and shrink: Ray's autoscaler, worker jobs",
    "policy": "what is decided: losses, quorum, recovery, time limit, signals",
    "slurm": "what Slurm says and is asked: allocation, queue, calls of a job",
    "system": "Linux: processes, cgroups, limits, network, ports",
    "config": "configuration files",
    "model": "plain values: settings, states, errors, what the record holds",
}

_PARTS = {
    "expected_workers": "The cluster",
    "master_ip": "Addresses and ports",
    "num_cpus": "What Ray gets",
    "start_timeout": "How Ray is started",
    "on_worker_loss": "Faults and time limits",
    "service": "A driver that is a server",
    "container": "Containers",
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
    r"""A regular expression as a person reads it: its first alternatives, without its operators.

    >>> _pattern(r"Too many open files|EMFILE.{0,9}x|[Ee]nd of (?:file|line)")
    '`Too many open files`, `EMFILE…x`, `End of file`'
    >>> _pattern(r"\[Errno 27\] File too large|:6379\b")
    '`[Errno 27] File too large`, `:6379`'
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
        one = one.replace("\\b", "").replace("\\[", "\0").replace("\\]", "\1")
        one = re.sub(r"\(\?:([^|)]*)(\|[^)]*)?\)\??", r"\1", one)  # the first of a group
        one = re.sub(r"\[(\w)[^\]]*\][+*?]?", r"\1", one)
        one = re.sub(r"\\d(\{\d+\})?[+*]?(\\\.\\d[+*]?)*", "…", one)
        one = re.sub(r"(\w| )\?", r"\1", one)
        one = re.sub(r"\.(\{[^}]*\}|[*+]\??)|\\S[+*]|\\d[+*]", "…", one)
        one = one.replace("\0", "[").replace("\1", "]")
        readable.append(f"`{one.replace(chr(92), '').replace('|', '')}`")
    return ", ".join(readable)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def commands() -> list[str]:
    """The sections of docs/commands.md, in the order of `raycluster --help`."""
    import typer

    from raycluster_cli.cli.app import app

    settings = {one.name for one in fields(Settings)}
    group: Any = typer.main.get_command(app)
    lines: list[str] = []
    for name in group.list_commands(None):
        if not group.commands[name].hidden:
            lines += _command(name, group.commands[name], settings)
    return [*lines, ""]


def _command(name: str, command: Any, settings: set[str]) -> Iterator[str]:
    summary, *paragraphs = re.split(r"\n\s*\n", command.help.strip())
    own = [one for one in command.params if one.name not in settings or not one.envvar]
    options = [
        one for one in own if one.param_type_name == "option" and not one.hidden and one.name != "help"
    ]
    arguments = [one for one in own if one.param_type_name == "argument"]
    shown = ["raycluster", name, "[OPTIONS]", *(one.metavar for one in arguments)]
    yield from ("", f"## raycluster {name}", "", summary, "", "```", _usage(name, shown), "```", "")
    for paragraph in paragraphs:
        yield from _paragraph(paragraph)
    if arguments:
        yield from ("| Argument | |", "|---|---|")
        yield from (f"| `{_cell(one.metavar)}` | {_cell(_prose(one.help))} |" for one in arguments)
        yield ""
    if options:
        yield from ("| Option | |", "|---|---|")
        for one in options:
            names = ", ".join(f"`{text}`" for text in (*one.opts, *one.secondary_opts))
            metavar = "" if one.is_flag or not one.metavar else f" `{_cell(one.metavar)}`"
            given = one.show_default and one.default not in (None, "", False)
            default = f" Default: {_number(one.default)}." if given else ""
            yield f"| {names}{metavar} | {_cell(_prose(one.help))}{default} |"
        yield ""
    shared = {one.name for one in command.params} & settings - {one.name for one in own}
    if shared:
        links = [f"`{option_name(one.name)}`" for one in fields(Settings) if one.name in shared]
        yield f"Settings, described in [Configuration](configuration.md): {', '.join(links)}."
        yield ""


def _usage(name: str, words: list[str]) -> str:
    if name == "submit":
        return "raycluster submit [OPTIONS] [OPTIONS OF SBATCH] -- DRIVER [ARGS]..."
    return " ".join(words)


def _paragraph(text: str) -> Iterator[str]:
    """A paragraph of a help text as Markdown: examples as code, the rest as it is."""
    text = text.replace("\b\n", "")
    heading, _, rest = text.partition("\n")
    if heading == "Examples:":
        body = [line.removeprefix("  ") for line in rest.splitlines()]
    elif text.startswith("Example"):
        body = [one.strip() for one in text.partition(":")[2].split("  |  ")]
    else:
        yield from (_prose(text), "")
        return
    yield from ("```bash", *body, "```", "")


def _prose(text: str) -> str:
    """Help text as Markdown: on one line, with its options as code.

    >>> _prose("With --once, as\\n`run --local` has it.")
    'With `--once`, as `run --local` has it.'
    """
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"`\g<0>`", part) for part in parts[::2]]
    return "`".join(parts)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def modules() -> list[str]:
    """The tables of docs/modules.md: for each package its modules and how their docstrings begin."""
    root = Path(raycluster_cli.__file__).parent
    lines: list[str] = []
    for package, duty in PACKAGES.items():
        lines += ["", f"## {package}", "", f"{duty[0].upper()}{duty[1:]}.", "", "| Module | |", "|---|---|"]
        for path in sorted((root / package).rglob("*.py")):
            if about := _docstring(path.read_text()):
                name = str(path.relative_to(root / package)).removesuffix(".py").replace("/", ".")
                lines.append(f"| `{name.removesuffix('.__init__')}` | {_cell(_first(about))} |")
    return [*lines, ""]


def _docstring(source: str) -> str:
    """A module's docstring, '' for none; the code behind it is not parsed."""
    end = source.find('"""', 3)
    return (ast.get_docstring(ast.parse(source[: end + 3])) or "") if source.startswith('"""') else ""


def _first(docstring: str) -> str:
    """The first paragraph of a docstring, on one line.

    >>> _first("What is\\ngranted.\\n\\nMore.")
    'What is granted.'
    """
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r":(?:mod|class|func|meth):`\.?([^`]+)`", r"`\1`", text)


PAGES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "commands.md": ("raycluster_cli/cli", commands),
    "configuration.md": ("raycluster_cli/model/settings.py", configuration),
    "modules.md": ("the docstrings in raycluster_cli", modules),
    "troubleshooting.md": ("raycluster_cli/model/causes.py", troubleshooting),
}

_END = "<!-- End of the generated part. -->\n"


def page(name: str) -> str:
    """A page as it should be: the text between its two marks comes from the code, the rest from the file."""
    source, make = PAGES[name]
    begin = f"<!-- Generated by docs/generate.py from {source}. -->\n"
    before, found, rest = (DOCS / name).read_text().partition(begin)
    _, found_too, after = rest.partition(_END)
    if not found or not found_too:
        raise SystemExit(f"docs/{name}: the marks of its generated part are missing")
    return before + begin + "\n".join(make()) + "\n" + _END + after


def main() -> int:
    stale = [name for name in PAGES if (DOCS / name).read_text() != page(name)]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} differs from the code; run: python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(page(name))
        print(f"docs/{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
