"""An application for `serve run`: answers with its host; `app` is what is run."""

import socket

from ray import serve


@serve.deployment(num_replicas=3, max_replicas_per_node=1, ray_actor_options={"num_cpus": 0})
class Where:
    """Says on which host it is."""

    def __call__(self, request: object) -> dict[str, str]:
        return {"host": socket.gethostname()}


app = Where.bind()
