"""The command line of the beds; the package's docstring shows it."""

from __future__ import annotations

import argparse
import os
import sys

import tests.bed
from tests.bed.bed import Bed, BedError
from tests.bed.spec import ROOT, BedSpec


def main() -> int:
    """Runs one command and gives its exit code."""
    options = _parser().parse_args()
    try:
        return int(options.act(options) or 0)
    except (BedError, ValueError) as error:
        print(f"bed {options.name}: {error}", file=sys.stderr)
        return 1


def up(options: argparse.Namespace) -> None:
    spec = BedSpec(
        hosts=options.hosts,
        cpus=options.cpus,
        memory_mib=options.memory,
        gpus=options.gpus,
        cgroups=options.cgroups,
        slurm=dict(setting.split("=", 1) for setting in options.set),
        keep=tuple(options.keep),
    )
    bed = Bed.up(options.name, spec, owner_pid=options.owner)
    if options.owner is None:
        bed.detach()


def down(options: argparse.Namespace) -> None:
    if (ROOT / options.name).exists():
        Bed(options.name).down()


def run(options: argparse.Namespace) -> None:
    argv = Bed(options.name).command(options.host, options.command, user=options.user, wd=options.wd)
    os.execvp(argv[0], argv)


def status(options: argparse.Namespace) -> int:
    argv = Bed(options.name).command("login", ["sinfo", "-N", "-o", "%N %P %T %c %m %G"])
    os.execvp(argv[0], argv)


def leftovers(options: argparse.Namespace) -> int:
    bed = Bed(options.name)
    found = [f"{host}: {line}" for host in bed.spec.names for line in bed.leftovers(host)]
    print("\n".join(found))
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.bed",
        description=tests.bed.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="bed")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("up", help="make a bed; it stays until `down` (or the end of --owner)")
    command.add_argument("hosts", type=int, nargs="?", default=3)
    command.add_argument("--cpus", type=_numbers, default=(2,), help="of each host, as 16 or as 2,4,4")
    command.add_argument("--memory", type=_numbers, default=(6000,), help="MiB of each host")
    command.add_argument("--gpus", type=_numbers, default=(0,), help="of each host; they are not real")
    command.add_argument("--cgroups", action="store_true", help="enforce the jobs' CPUs and memory")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a line of slurm.conf")
    command.add_argument("--keep", action="append", default=[], metavar="DIR", help="let every user reach DIR")
    command.add_argument("--owner", type=int, metavar="PID", help="end the bed when this process ends")
    command.set_defaults(act=up)

    command = commands.add_parser("run", help="run a command on a host")
    command.add_argument("--user", default="root")
    command.add_argument("--wd", default="", help="working directory; the user's home if not given")
    command.add_argument("host")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(act=run)

    for name, act in {
        "power-off": lambda options: Bed(options.name).power_off(options.host),
        "power-on": lambda options: Bed(options.name).power_on(options.host),
    }.items():
        command = commands.add_parser(name)
        command.add_argument("host")
        command.set_defaults(act=act)

    command = commands.add_parser("cable", help="pull a host's network cable or plug it in")
    command.add_argument("host")
    command.add_argument("state", choices=("up", "down"))
    command.set_defaults(act=lambda options: Bed(options.name).cable(options.host, up=options.state == "up"))

    for name, act in {"status": status, "leftovers": leftovers, "down": down}.items():
        commands.add_parser(name).set_defaults(act=act)
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
