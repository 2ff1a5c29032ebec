#!/usr/bin/env bash
# Typer 0.17: the help of a program without Rich markup ends in a traceback.
#
# With rich_markup_mode=None the help is plain text, but 0.17 (which imports Rich late) still calls rich.markup.escape
# for "[default: …]" and has not imported rich.markup. 0.16 and 0.18 are fine. Seen:
#   AttributeError: module 'rich' has no attribute 'markup'
# Needs Python 3.10 or newer with venv. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'typer==0.17.3'
cat > "$place/program.py" <<'PYTHON'
import typer

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(number: int = typer.Option(1, help="A number.")) -> None: ...


app()
PYTHON
said=$("$place/venv/bin/python" "$place/program.py" --help 2>&1 | tail -n 1) || true
echo "$said"
[ "$said" = "AttributeError: module 'rich' has no attribute 'markup'" ]
