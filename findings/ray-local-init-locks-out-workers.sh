#!/usr/bin/env bash
# Ray 2.60: after one plain ray.init() in a home directory, `ray start --address` can no longer join `ray start --head`.
#
# A local ray.init() switches token authentication on and leaves the token in ~/.ray/auth_token. From then on
# `ray start --head` finds the file and switches authentication on too, with a warning, but `ray start --address`,
# `ray health-check` and `ray status` do not look for the file: they call the head without the token and fail with
# "InvalidAuthToken … RAY_AUTH_MODE is currently 'disabled'". So a test in a notebook breaks each later hand-written
# start of several nodes of the same user, and `ray symmetric-run`, on every machine that shares the home directory.
# RAY_AUTH_MODE=token (or disabled) in the environment of all of them, or removing the file, mends it.
# Seen (exit codes):
#   new home: health-check 0, start --address 0, status 0
#   after ray.init(): health-check 1, start --address 1, status 1
#   the same with RAY_AUTH_MODE=token: health-check 0, start --address 0, status 0
# Needs Python 3.10 to 3.13 with venv, unshare with user namespaces, ip (iproute2), and 2 GB of memory. All of it runs
# in namespaces and with a home of its own. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray==2.60.0'
export RAY_USAGE_STATS_ENABLED=0 PATH="$place/venv/bin:$PATH" HOME="$place/home"
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS
mkdir "$HOME"
cat > "$place/two-nodes" <<'BASH'
ip link set lo up
ip address add 10.9.9.1/32 dev lo
{ ray start --head --node-ip-address 10.9.9.1 --port 6379 --num-cpus 1 --include-dashboard false || exit 9; } > /dev/null 2>&1
health=0 start=0 status=0
ray health-check --address 10.9.9.1:6379 > /dev/null 2>&1 || health=$?
ray start --address 10.9.9.1:6379 --num-cpus 1 > /dev/null 2>&1 || start=$?
ray status --address 10.9.9.1:6379 > /dev/null 2>&1 || status=$?
echo "health-check $health, start --address $start, status $status"
BASH
two_nodes() {
    RAY_TMPDIR=$(mktemp -d -p "$place") timeout 300 \
        unshare --user --map-root-user --net --pid --fork --kill-child --mount-proc bash "$place/two-nodes" || true
}
new=$(two_nodes)
echo "new home: $new"
RAY_TMPDIR="$place/init" timeout 300 unshare --user --map-root-user --pid --fork --kill-child --mount-proc \
    python -c 'import ray; ray.init(num_cpus=1, include_dashboard=False)' > /dev/null 2>&1
after=$(two_nodes)
echo "after ray.init(): $after"
with=$(RAY_AUTH_MODE=token two_nodes)
echo "the same with RAY_AUTH_MODE=token: $with"
good="health-check 0, start --address 0, status 0"
[ "$new" = "$good" ] && [ "$after" = "health-check 1, start --address 1, status 1" ] && [ "$with" = "$good" ]
