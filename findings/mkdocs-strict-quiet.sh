#!/usr/bin/env bash
# mkdocs 1.6.1: `mkdocs build --strict --quiet` ends with 0 where `mkdocs build --strict` ends with 1.
#
# --strict fails the build when warnings were counted, and --quiet raises the level of the logger that the counter
# listens to: a warning that is not shown is not counted either. A CI that builds quietly finds no broken link.
# Seen:
#   strict:        exit code 1, "Aborted with 1 warnings in strict mode!"
#   strict, quiet: exit code 0, no output
# Needs Python 3.10 or newer with venv. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'mkdocs==1.6.1'
mkdir -p "$place/site/docs"
printf 'site_name: x\n' > "$place/site/mkdocs.yml"
printf '# Home\n\n[a page that is not there](missing.md)\n' > "$place/site/docs/index.md"
cd "$place/site"
strict=0 quiet=0
"$place/venv/bin/mkdocs" build --strict > "$place/strict.txt" 2>&1 || strict=$?
"$place/venv/bin/mkdocs" build --strict --quiet > "$place/quiet.txt" 2>&1 || quiet=$?
echo "strict:        exit code $strict, $(grep -o 'Aborted with .*' "$place/strict.txt" || echo 'no abort')"
echo "strict, quiet: exit code $quiet, $(wc -c < "$place/quiet.txt") bytes of output"
[ "$strict" = 1 ] && [ "$quiet" = 0 ]
