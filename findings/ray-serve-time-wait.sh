#!/usr/bin/env bash
# Ray Serve 2.60: SERVE_SOCKET_REUSE_PORT_ENABLED=0 also keeps Serve from starting again on its port for a minute.
#
# The variable is there to switch off SO_REUSEPORT, so that two servers cannot share a port unseen. Without it Serve
# sets no option on its socket at all, not even SO_REUSEADDR: as long as one connection that the server has closed is
# in TIME_WAIT (60 s), a new proxy cannot listen on the port. With the variable at its default the same restart works.
# Seen:
#   with 1: HTTP/1.1 200 OK, then HTTP/1.1 200 OK
#   with 0: HTTP/1.1 200 OK, then RuntimeError: Failed to bind to address '127.0.0.1:PORT'.
# Needs Python 3.10 to 3.13 with venv and 2 GB of memory. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'
cat > "$place/twice.py" <<'PYTHON'
import re
import socket

import ray
from ray import serve


@serve.deployment
def answer(request):
    return "hello"


def ask(port):
    """The status line; the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        return connection.makefile().read().splitlines()[0]


def start_and_ask(port):
    ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(answer.bind())
        return ask(port)
    except Exception as error:
        found = re.search(r"RuntimeError: Failed to bind to address '127.0.0.1:\d+'\.", str(error))
        return found[0].replace(str(port), "PORT") if found else repr(error)
    finally:
        serve.shutdown()
        ray.shutdown()


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    free = probe.getsockname()[1]
print(f"{start_and_ask(free)}, then {start_and_ask(free)}")
PYTHON
export RAY_USAGE_STATS_ENABLED=0
for value in 1 0; do
    said=$(SERVE_SOCKET_REUSE_PORT_ENABLED=$value timeout 300 "$place/venv/bin/python" "$place/twice.py" 2> /dev/null | tail -n 1) || true
    echo "with $value: $said"
    case $value in
        1) [ "$said" = "HTTP/1.1 200 OK, then HTTP/1.1 200 OK" ] ;;
        0) [ "$said" = "HTTP/1.1 200 OK, then RuntimeError: Failed to bind to address '127.0.0.1:PORT'." ] ;;
    esac
done
