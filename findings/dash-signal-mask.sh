#!/usr/bin/env bash
# dash 0.5.12: a blocked signal does not stay blocked through `sh -c`: dash empties the signal mask when it starts.
#
# A signal mask is inherited through fork and exec, and bash leaves it alone. dash, which is /bin/sh on Debian and
# Ubuntu, sets it to nothing. So a launcher that blocks SIGINT for a daemon (as Ray does for its raylet, so that Ctrl-C
# does not end it) and starts it by `sh -c 'exec daemon'` has started one that Ctrl-C ends. Ignored signals (SIG_IGN)
# do stay ignored. Seen, with SIGINT blocked by the parent:
#   dash 0000000000000000
#   bash 0000000000000002
# Needs Debian's or Ubuntu's apt-get and dpkg, bash and Python 3. Exits with 1 if this changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
version=$(apt-cache madison dash | awk '$3 ~ /^0\.5\.12-/ {print $3; exit}')
apt-get download -qq "dash=$version" > /dev/null 2>&1
dpkg -x dash_*.deb "$place"
dash=$(find "$place" -name dash -path '*bin/dash' -type f)
mask() { # of a shell that a parent with SIGINT blocked has started
    python3 - "$1" <<'PYTHON'
import signal, subprocess, sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
text = subprocess.run([sys.argv[1], "-c", "read line < /dev/null; cat /proc/$$/status"], capture_output=True, text=True).stdout
print(next(line.split()[1] for line in text.splitlines() if line.startswith("SigBlk:")))
PYTHON
}
said="dash $(mask "$dash")
bash $(mask bash)"
echo "$said"
[ "$said" = "dash 0000000000000000
bash 0000000000000002" ]
