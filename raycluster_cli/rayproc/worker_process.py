"""Ray's worker process, with this node's own address where its environment is a copy of another node's.

    python worker_process.py --node-ip-address=… …     as ray/_private/workers/default_worker.py

Drivers pass ``runtime_env={"env_vars": dict(os.environ)}`` to actors on other nodes, and with it the driver's
VLLM_HOST_IP.  Where raycluster has set that variable (it is the same as :data:`MARK`, which is copied
along, or the head's address), it gets the address of the node that this process is on.

Ray Serve's controller calls a function of raycluster's package for its ports (rayproc/serve_ports.py).  With
a Python that does not have the package, Serve's defaults stay.

It also tells the node's supervisor that a worker process starts: the log monitor starts then.

Runs by its path, alone, with any Python that has Ray: nothing of the package is imported.
"""

import os
import sys

MARK = "RAYCLUSTER_VLLM_HOST_IP"
"""The address that raycluster has given to VLLM_HOST_IP."""
CALLBACK = "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"


def correct(environ: "dict[str, str] | os._Environ[str]", arguments: "list[str]") -> None:
    """Put this node's address into a copied environment.

    >>> environ = {"VLLM_HOST_IP": "10.0.0.1", MARK: "10.0.0.1"}
    >>> correct(environ, ["--node-ip-address=10.0.0.2"])
    >>> environ["VLLM_HOST_IP"]
    '10.0.0.2'
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    # A copy of some of the driver's variables has the head's address, without the head's mark.
    head = given.get("--gcs-address", "").rpartition(":")[0].strip("[]")
    if MARK not in environ or environ.get("VLLM_HOST_IP") not in (environ[MARK], head):
        return  # the user's own
    if "--node-ip-address" in given:
        environ["VLLM_HOST_IP"] = environ[MARK] = given["--node-ip-address"]


def tell_start(arguments: "list[str]") -> None:
    """Tell the node's supervisor, if it waits for that, that a worker process starts here (node.extras)."""
    for argument in arguments:
        if argument.startswith("--temp-dir="):
            try:
                gate = os.open(argument.partition("=")[2] + "/work.gate", os.O_WRONLY | os.O_NONBLOCK)
                os.write(gate, b".")
                os.close(gate)
            except OSError:
                pass  # nobody waits


def keep_callback(environ: "dict[str, str] | os._Environ[str]") -> None:
    """Take Serve's callback out where this Python, of a runtime environment, does not have the package."""
    if environ.get(CALLBACK, "").startswith("raycluster_cli."):
        from importlib.util import find_spec

        if find_spec("raycluster_cli") is None:
            del environ[CALLBACK]


def default_worker() -> str:
    """The path of Ray's own worker process, in this Python's Ray; it is not imported."""
    from importlib.util import find_spec

    spec = find_spec("ray")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"Ray is not installed in {sys.executable}")
    return os.path.join(spec.submodule_search_locations[0], "_private/workers/default_worker.py")


if __name__ == "__main__":
    correct(os.environ, sys.argv)
    keep_callback(os.environ)
    tell_start(sys.argv)
    # This module stays __main__, with Ray's file in place of ours.
    sys.argv[0] = __file__ = default_worker()
    sys.path[0] = os.path.dirname(__file__)
    with open(__file__, "rb") as source:
        exec(compile(source.read(), __file__, "exec"))
