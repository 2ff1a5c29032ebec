"""A flow of Prefect whose tasks run on all nodes; its server runs beside the driver."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

ADDRESS = os.environ["RAY_ADDRESS"].rpartition(":")[0]

with socket.socket() as free:
    free.bind((ADDRESS, 0))
    PORT = free.getsockname()[1]

# Read when prefect is imported.  The database is in TMPDIR, which is removed at the end.
os.environ["PREFECT_HOME"] = f"{os.environ['TMPDIR']}/prefect"
os.environ["PREFECT_API_URL"] = f"http://{ADDRESS}:{PORT}/api"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

server = subprocess.Popen(
    [sys.executable, "-m", "prefect", "server", "start", f"--host={ADDRESS}", f"--port={PORT}", "--no-ui"],
    stdout=subprocess.DEVNULL,
)


def answers() -> bool:
    """Whether the server does."""
    try:
        with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


deadline = time.monotonic() + 150
while not answers():
    assert server.poll() is None, f"the server ended with {server.returncode}"
    assert time.monotonic() < deadline, "the server does not answer"
    time.sleep(1)

import prefect  # noqa: E402
import prefect_ray  # noqa: E402
from prefect_ray.context import remote_options  # noqa: E402


@prefect.task
def host(number: int) -> str:
    """Where it ran."""
    time.sleep(2)
    return socket.gethostname()


@prefect.flow(task_runner=prefect_ray.RayTaskRunner(address=os.environ["RAY_ADDRESS"]))
def flow() -> list[str]:
    with remote_options(scheduling_strategy="SPREAD", num_cpus=2):
        return [future.result() for future in host.map(list(range(9)))]


hosts = flow()
assert len(hosts) == 9
server.terminate()
server.wait(30)
print("LIBRARY prefect-ray", prefect_ray.__version__, prefect.__version__, "NODES", len({*hosts}))
