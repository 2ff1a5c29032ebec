#!/usr/bin/env bash
# Ray 2.56: with token authentication the GCS refuses the standard gRPC health check; the releases before and after answer it.
#
# Ray's GCS serves grpc.health.v1.Health on its port. With RAY_AUTH_MODE=token, releases up to 2.55 and from 2.57 on answer
# Health/Check without a token, as probes send it (grpc_health_probe, Kubernetes' grpc probes). 2.56.0 and 2.56.1 do not: the
# call ends with UNAUTHENTICATED. So a probe that takes everything but SERVING for a failure ends a healthy cluster, with these
# two releases only, and only where authentication is on.
# Seen:
#   2.55.1: SERVING
#   2.56.1: UNAUTHENTICATED
#   2.57.1: SERVING
# Needs Python 3.10 to 3.13 with venv, unshare with user namespaces, ip (iproute2), 1 GB of memory and 2 GB of disk. All of it
# runs in namespaces and with a home of its own. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export RAY_USAGE_STATS_ENABLED=0 HOME="$place/home" RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
unset RAY_AUTH_TOKEN_PATH RAY_ADDRESS
mkdir "$HOME"
cat > "$place/ask.py" <<'PYTHON'
import grpc

channel = grpc.insecure_channel("127.0.0.1:6379")
check = channel.unary_unary("/grpc.health.v1.Health/Check")  # messages as bytes
try:
    answer = check(b"", timeout=20, wait_for_ready=True)
    print("SERVING" if answer == b"\x08\x01" else answer)
except grpc.RpcError as error:
    print(error.code().name)
PYTHON
cat > "$place/one-node" <<'BASH'
ip link set lo up
ray start --head --node-ip-address 127.0.0.1 --port 6379 --num-cpus 1 --include-dashboard false > "$HOME/log" 2>&1 || cat "$HOME/log"
python "$1"
BASH
seen=""
for version in 2.55.1 2.56.1 2.57.1; do
    python3 -m venv "$place/$version"
    "$place/$version/bin/python" -m pip install --quiet --disable-pip-version-check "ray==$version" 'grpcio==1.76.0'
    said=$(PATH="$place/$version/bin:$PATH" RAY_TMPDIR=$(mktemp -d -p "$place") timeout 300 \
        unshare --user --map-root-user --net --pid --fork --kill-child --mount-proc bash "$place/one-node" "$place/ask.py")
    echo "$version: $said"
    seen+="$said "
done
[ "$seen" = "SERVING UNAUTHENTICATED SERVING " ]
