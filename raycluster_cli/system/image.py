"""The image of a container: how it is checked once for raycluster and Ray, and what is said without them."""

from __future__ import annotations

import shlex
from pathlib import Path

from .._version import __version__
from ..model.errors import UsageError

#: Variables that name the host's Python, and that a Python in the image would follow.
HOST_PYTHON = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME")


def check_words(state_dir: Path, ray_version: str = "") -> list[str]:
    """The command that the image runs to tell what is in it.

    >>> check_words(Path("/home/ada/.raycluster"))
    ['raycluster', 'image-check', '--state-dir=/home/ada/.raycluster']
    """
    options = [f"--state-dir={state_dir}", *([f"--ray={ray_version}"] if ray_version else [])]
    return ["raycluster", "image-check", *options]


def failure(image: str, program: str, code: int | str) -> tuple[str, str]:
    """Message and hint where the command of :func:`check_words` did not run at all."""
    return (
        f"the image {image} does not start with {program}, or has no raycluster in its PATH "
        f"(exit code {code}).",
        f"Install raycluster {__version__} in the image (pip install raycluster).",
    )


def worker_groups_refused() -> UsageError:
    """The error for worker groups together with a container (docs/decisions/0035)."""
    return UsageError(
        "--container and worker groups (--max-nodes, --config) do not go together: worker jobs would "
        "start outside the container.",
        "Leave one out, or submit workers yourself: raycluster worker --cluster JOB --container IMAGE.",
    )


def check_lines(words: str, check: list[str], image: str, program: str) -> list[str]:
    """Shell lines that check the image in a batch script, before all nodes start it.

    ``words``: the command line up to the command in the container, quoted for the shell.
    """
    missing = (
        f"raycluster: error: {program} was not found on this node. Load its module, or name another runtime "
        "with --container-runtime."
    )
    message, hint = failure(image, program, "$code")
    said = f"raycluster: error: {message} {hint}".replace('"', '\\"').replace("`", "\\`")
    return [
        "# The image is checked once, on this node, before all nodes start it.",
        f"command -v {program} >/dev/null || {{ echo {shlex.quote(missing)} >&2; exit 2; }}",
        "code=0",
        f"{words} {shlex.join(check)} || code=$?",
        '[ "$code" = 0 ] || [ "$code" = 2 ] ||',
        f'    echo "{said}" >&2',
        '[ "$code" = 0 ] || exit 2',
    ]
