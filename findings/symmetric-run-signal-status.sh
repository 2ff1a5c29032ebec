#!/usr/bin/env bash
# ray symmetric-run 2.60: a program that a signal ends gives an exit code from 226 to 255, not 128 plus the signal.
#
# It hands Python's return code, which is minus the signal's number, to sys.exit(), and the kernel keeps the low eight
# bits. A program that the OOM killer ends, so with SIGKILL, gives 247, SIGTERM gives 241 and SIGSEGV 245. Batch scripts
# and Slurm's own tools look for 137, 143 and 139, as a shell or srun would report the same program, and 247 is also
# what a program gets that calls exit(247).
# Seen:
#   TERM: a shell says 143, symmetric-run 241
#   KILL: a shell says 137, symmetric-run 247
#   SEGV: a shell says 139, symmetric-run 245
# Needs Python 3.10 to 3.13 with venv, unshare with user namespaces, and 2 GB of memory. symmetric-run ends with
# `ray stop`, so it runs in a PID namespace of its own, where it cannot end the Ray of others. Exits with 1 if this
# changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray==2.60.0'
export RAY_USAGE_STATS_ENABLED=0 PATH="$place/venv/bin:$PATH"
changed=0
for case in TERM:143:241 KILL:137:247 SEGV:139:245; do
    IFS=: read -r signal plain expected <<< "$case"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    program=(bash -c "ulimit -c 0; kill -$signal \$\$")
    shell=0
    { "${program[@]}" || shell=$?; } 2> /dev/null
    code=0
    timeout 300 unshare --user --map-root-user --pid --fork --kill-child --mount-proc \
        ray symmetric-run --address "127.0.0.1:$port" --num-cpus 1 --include-dashboard false \
        -- "${program[@]}" > "$place/output" 2>&1 || code=$?
    grep -q "Head node started" "$place/output" || cat "$place/output"
    echo "$signal: a shell says $shell, symmetric-run $code"
    [ "$shell:$code" = "$plain:$expected" ] || changed=1
done
exit "$changed"
