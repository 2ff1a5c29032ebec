#!/usr/bin/env bash
# click 8.3.1: a closed pipe never reaches the caller of `command.main(standalone_mode=False)`; it ends the program.
#
# With standalone_mode=False click promises to hand exceptions on. For EPIPE it does not: main() replaces stdout and
# stderr and calls sys.exit(1), so a program whose reader (`| head`) has seen enough ends with 1, and `except
# BrokenPipeError` around main() never runs. Seen:
#   SystemExit 1
# Needs Python 3.10 or newer with venv. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'click==8.3.1'
cat > "$place/program.py" <<'PYTHON'
import errno, os, sys

import click


@click.command()
def command() -> None:
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


where = os.dup(2)
try:
    command.main([], standalone_mode=False)
    said = "returned"
except BrokenPipeError:
    said = "BrokenPipeError"
except SystemExit as end:
    said = f"SystemExit {end.code}"
os.write(where, said.encode() + b"\n")
os._exit(0)
PYTHON
said=$("$place/venv/bin/python" "$place/program.py" 2>&1)
echo "$said"
[ "$said" = "SystemExit 1" ]
