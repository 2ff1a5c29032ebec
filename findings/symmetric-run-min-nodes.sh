#!/usr/bin/env bash
# ray symmetric-run 2.60: --min-nodes is no minimum. With more nodes than that the start fails after 30 s.
#
# The head counts nodes every five seconds and goes on when the count *equals* --min-nodes. When more nodes have joined
# before the first count, which is what happens when all tasks of a Slurm step start at once, it is never equal: the
# head says "Timed out waiting for other nodes to start" although every node is there, and the program never runs.
# So `srun --nodes=4 ray symmetric-run --min-nodes 2 …`, meant to start with two of four nodes, fails with four.
# Seen, with a head and two workers:
#   --min-nodes 3: the program ran
#   --min-nodes 2: 3/2 nodes started;Timed out waiting for other nodes
# Needs Python 3.10 to 3.13 with venv, unshare with user namespaces, ip (iproute2), and 3 GB of memory. All of it runs
# in namespaces of its own, because symmetric-run ends with `ray stop`. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray==2.60.0'
export RAY_USAGE_STATS_ENABLED=0 PATH="$place/venv/bin:$PATH" HOME="$place"
cat > "$place/three-nodes" <<'BASH'
ip link set lo up
ip address add 10.9.9.1/32 dev lo
ray symmetric-run --address 10.9.9.1:6379 --min-nodes "$1" --num-cpus 1 --include-dashboard false -- echo "the program ran" &
# It stands still until both workers are there: on a quiet machine they are faster than its first count.
{
    until ray health-check --address 10.9.9.1:6379 --skip-version-check; do sleep 0.2; done
    kill -STOP $!
    ray start --address 10.9.9.1:6379 --num-cpus 1
    ray start --address 10.9.9.1:6379 --num-cpus 1
    kill -CONT $!
} > /dev/null 2>&1
wait $!
BASH
changed=0
for wanted in 3 2; do
    timeout 300 unshare --user --map-root-user --net --pid --fork --kill-child --mount-proc \
        bash "$place/three-nodes" "$wanted" > "$place/output" 2>&1 || true
    said=$(grep -oE "^the program ran|Timed out waiting for other nodes|[0-9]/[0-9] nodes started" "$place/output" |
        sort -u | paste -sd';') || true
    echo "--min-nodes $wanted: $said"
    case $wanted in
        3) [[ $said = "the program ran" ]] || changed=1 ;;
        2) [[ $said = "3/2 nodes started;Timed out waiting for other nodes" ]] || changed=1 ;;
    esac
done
exit "$changed"
