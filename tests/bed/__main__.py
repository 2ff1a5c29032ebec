"""The command line of the beds; the package's docstring shows it."""

from __future__ import annotations

import argparse
import os
import sys

import tests.bed
from tests.bed.bed import Bed, BedError, clear
from tests.bed.spec import ROOT, BedSpec


def main() -> int:
    """Runs one command and gives its exit code."""
    options = _parser().parse_args()
    try:
        return int(options.act(options))
    except (BedError, ValueError) as error:
        print(f"bed {options.name}: {error}", file=sys.stderr)
        return 1


def up(options: argparse.Namespace) -> int:
    """Makes a bed."""
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
    return 0


def down(options: argparse.Namespace) -> int:
    """Takes a bed down, or what is left of one."""
    if (ROOT / options.name / "spec.json").exists():
        Bed(options.name).down()
    else:
        clear(options.name)
    return 0


def run(options: argparse.Namespace) -> int:
    """Becomes a command on a host."""
    argv = Bed(options.name).command(options.host, options.command, user=options.user, wd=options.wd)
    os.execvp(argv[0], argv)


def status(options: argparse.Namespace) -> int:
    """Prints what Slurm says of the nodes."""
    print(
        Bed(options.name).run("login", ["sinfo", "-N", "-o", "%N %P %T %c %m %G"], check=True).stdout, end=""
    )
    return 0


def leftovers(options: argparse.Namespace) -> int:
    """Prints what jobs left behind; 1 when there is something."""
    bed = Bed(options.name)
    found = [f"{host}: {line}" for host in bed.spec.names for line in bed.leftovers(host)]
    print("\n".join(found) or "nothing")
    return 1 if found else 0


def power_off(options: argparse.Namespace) -> int:
    """Powers a host off."""
    Bed(options.name).power_off(options.host)
    return 0


def power_on(options: argparse.Namespace) -> int:
    """Powers a host on."""
    Bed(options.name).power_on(options.host)
    return 0


def cable(options: argparse.Namespace) -> int:
    """Pulls a cable or plugs it in."""
    Bed(options.name).cable(options.host, up=options.state == "up")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.bed",
        description=tests.bed.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="bed")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("up", help="make a bed; it stays until `down` (or the end of --owner)")
    add = command.add_argument
    add("hosts", type=int, nargs="?", default=3)
    add("--cpus", type=_numbers, default=(2,), help="of each host, as 16 or as 2,4,4")
    add("--memory", type=_numbers, default=(6000,), help="MiB of each host")
    add("--gpus", type=_numbers, default=(0,), help="of each host; they are not real")
    add("--cgroups", action="store_true", help="enforce the jobs' CPUs and memory")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of slurm.conf")
    add("--keep", action="append", default=[], metavar="DIR", help="a directory that every user can reach")
    add("--owner", type=int, metavar="PID", help="end the bed when this process ends")
    command.set_defaults(act=up)

    command = commands.add_parser("run", help="run a command on a host")
    command.add_argument("--user", default="root")
    command.add_argument("--wd", default="", help="working directory; the user's home if not given")
    command.add_argument("host")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(act=run)

    for act in (power_off, power_on, cable):
        command = commands.add_parser(act.__name__.replace("_", "-"), help=act.__doc__)
        command.add_argument("host")
        command.set_defaults(act=act)
    command.add_argument("state", choices=("up", "down"))

    for act in (status, leftovers, down):
        commands.add_parser(act.__name__, help=act.__doc__).set_defaults(act=act)
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
