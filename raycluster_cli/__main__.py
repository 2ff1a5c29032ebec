"""The console script: forks off the keeper where a node is started, then runs the command line."""

import gc
import os
import sys

#: Commands that start Ray on this node and therefore run under a keeper.
_KEPT = {"head", "worker", "run"}

#: The variable by which a supervisor goes on as one that runs from a copy of the environment.
HANDED_OVER = "RAYCLUSTER_HANDED_OVER"


def _may_be_for_container(arguments: list[str], env: dict[str, str]) -> bool:
    """Whether this process may become a container runtime (--container), as far as a glance tells.

    >>> _may_be_for_container(["run", "--container=ray.sif", "--", "x"], {})
    True
    >>> _may_be_for_container(["run", "--", "x", "--container=y"], {})
    False
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return bool(env.get("RAYCLUSTER_CONTAINER")) or any(
        word.partition("=")[0] == "--container" for word in own
    )


def _open_closed_streams() -> None:
    """Opens /dev/null in place of stdin, stdout and stderr that were closed (`>&-`, cron, some daemons).

    Otherwise Python has None there, and the next file that is opened gets the number: what the driver prints
    would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def main() -> None:
    """Entry point of `raycluster` and of `python -m raycluster_cli`."""
    _open_closed_streams()
    arguments = sys.argv[1:]
    env = dict(os.environ)
    keeper = warm = copy = None
    if arguments and arguments[0] in _KEPT:
        gc.disable()  # nothing of what is imported becomes garbage: supervisor.run enables it
    if arguments and arguments[0] in _KEPT and not _may_be_for_container(arguments, env):
        from .system.module_bundle import use_bundle

        use_bundle(env)
    if HANDED_OVER in env:
        from .system.keeper_link import Handover

        os.environ.pop(HANDED_OVER)
        if handover := Handover.taken(env):
            keeper, copy = handover.keeper, handover.copy
    if keeper is None and arguments and arguments[0] in _KEPT:
        # Before everything else, so that the keeper stays as small as a bare Python is.
        from .supervisor.spare_task import hold_first_place, is_spare, wait_for_first_task

        if is_spare(arguments, env):
            wait_for_first_task(env)
            return
        from .supervisor.keeper import guard

        keeper = guard(held=hold_first_place(env))
    if "RAYCLUSTER_DRIVER_OF" in env:  # a driver of another cluster has started this
        from .model.variables import OF_A_DRIVER

        for name in OF_A_DRIVER:
            env.pop(name, None)
            os.environ.pop(name, None)
    if keeper is not None:
        from .rayproc import warm as companion

        if companion.worth_it(arguments, env, copy is not None):
            warm = companion.begin(env)
    from .cli.errors import tell_errors
    from .cli.plain import read_line
    from .supervisor.launch import Launcher

    launcher = Launcher(env, keeper, warm, copy, tuple(arguments))
    if line := read_line(arguments, env):
        if keeper is None and not line.settings.container:  # --container was the driver's
            from .supervisor.keeper import guard

            launcher = Launcher(env, guard(), warm, copy, tuple(arguments))
        tell_errors(lambda: launcher.start(line.command, line.settings, line.driver))
        return
    from .cli.app import run_command_line

    run_command_line(launcher)


if __name__ == "__main__":
    main()
