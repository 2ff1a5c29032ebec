#!/usr/bin/env bash
# ray symmetric-run 2.60: with --min-nodes above 1 it ends with 1 although the program has ended with 0.
#
# To count the nodes, its own process calls ray.init(). After the program it runs `ray stop`, which ends the raylet that
# this process is connected to. When Python then exits, ray.shutdown() writes to the dead raylet, and Ray's core ends
# the process with 1: "Exiting because the Raylet IPC connection failed and the local Raylet is dead" in the driver's
# log, nothing on the terminal. Without --min-nodes there is no ray.init(), and the code is the program's. Where nobody
# reaps the raylet, for example where symmetric-run is process 1 of a container, the raylet counts as alive, and the
# code is 0.
# Seen, with a head and one worker:
#   --min-nodes 1: the program ran;exit code 0
#   --min-nodes 2: the program ran;exit code 1;Exiting because the Raylet IPC connection failed
# Needs Python 3.10 to 3.13 with venv, unshare with user namespaces, ip (iproute2), and 2 GB of memory. All of it runs
# in namespaces of its own, because symmetric-run ends with `ray stop`. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray==2.60.0'
export RAY_USAGE_STATS_ENABLED=0 PATH="$place/venv/bin:$PATH" HOME="$place"
cat > "$place/two-nodes" <<'BASH'
ip link set lo up
ip address add 10.9.9.1/32 dev lo
ray symmetric-run --address 10.9.9.1:6379 --min-nodes "$1" --num-cpus 1 --include-dashboard false \
    -- echo "the program ran" &
{
    until ray health-check --address 10.9.9.1:6379 --skip-version-check; do sleep 0.2; done
    ray start --address 10.9.9.1:6379 --num-cpus 1
} > /dev/null 2>&1
code=0
wait $! || code=$?
echo "exit code $code"
grep -hoE "Exiting because the Raylet IPC connection failed" "$RAY_TMPDIR"/ray/session_*/logs/python-core-driver-*
BASH
changed=0
for wanted in 1 2; do
    RAY_TMPDIR=$(mktemp -d -p "$place")
    export RAY_TMPDIR
    timeout 300 unshare --user --map-root-user --net --pid --fork --kill-child --mount-proc \
        bash "$place/two-nodes" "$wanted" > "$place/output" 2>&1 || true
    said=$(grep -oE "^the program ran|^exit code [0-9]+|^Exiting because .*" "$place/output" | uniq | paste -sd';')
    echo "--min-nodes $wanted: $said"
    case $wanted in
        1) [[ $said = "the program ran;exit code 0" ]] || changed=1 ;;
        2) [[ $said = "the program ran;exit code 1;Exiting because the Raylet IPC connection failed" ]] || changed=1 ;;
    esac
done
exit "$changed"
