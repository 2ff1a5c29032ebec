"""A server that speaks OpenAI's protocol and answers with actors on every node of the cluster.

    raycluster run --local 2 --service --health-path /health -- python examples/openai_server.py
    curl $(raycluster url)/v1/completions -d '{"prompt": "a b c", "max_tokens": 4}'

It stands in for vLLM or SGLang where neither is installed: the same paths (/health, /v1/models,
/v1/completions, /v1/chat/completions, /metrics with vLLM's names), one actor on each node, all of which
have a part in every answer, and a placement group that holds them.  The model repeats the prompt's words.
Only Python's standard library and Ray are needed.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(num_cpus=1)
class Shard:
    """A part of the model, on one node."""

    def host(self) -> str:
        names = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
        return str(names[ray.get_runtime_context().get_node_id()])

    def next_words(self, words: list[str], count: int) -> list[str]:
        return [words[number % len(words)] for number in range(count)] if words else []


class Engine:
    """The model: its shards, and what is counted of its work."""

    def __init__(self) -> None:
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        group: PlacementGroup = placement_group([{"CPU": 1}] * nodes, strategy="STRICT_SPREAD")
        ray.get(group.ready())
        self.shards = [
            Shard.options(  # type: ignore[attr-defined]
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=number
                )
            ).remote()
            for number in range(nodes)
        ]
        self.hosts = sorted(ray.get([shard.host.remote() for shard in self.shards]))
        self.lock = threading.Lock()
        self.running = self.done = self.tokens = 0

    def generate(self, prompt: str, count: int, delay_s: float = 0.0) -> str:
        """The answer; each shard makes its part of the words.  ``delay_s``: as if the model were larger."""
        with self.lock:
            self.running += 1
        try:
            time.sleep(delay_s)
            words, share = prompt.split(), -(-count // len(self.shards))
            parts = ray.get([shard.next_words.remote(words, share) for shard in self.shards])
            return " ".join(word for part in parts for word in part)
        finally:
            with self.lock:
                self.running -= 1
                self.done += 1
                self.tokens += count

    def metrics(self) -> str:
        with self.lock:
            return (
                f"vllm:num_requests_running {self.running}.0\nvllm:num_requests_waiting 0.0\n"
                f"vllm:request_success_total {self.done}.0\nvllm:generation_tokens_total {self.tokens}.0\n"
            )


class Handler(BaseHTTPRequestHandler):
    """OpenAI's paths."""

    protocol_version = "HTTP/1.1"
    engine: Engine
    model: str
    api_key: str

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, b"")
        elif self.path == "/metrics":
            self.answer(200, self.engine.metrics().encode(), "text/plain")
        elif self.path == "/v1/models":
            self.answer_json({"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self.answer_json({"error": {"message": f"no {self.path} here"}}, 404)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.api_key and not hmac.compare_digest(
            self.headers.get("Authorization", ""), f"Bearer {self.api_key}"
        ):
            self.answer_json({"error": {"message": "wrong API key"}}, 401)
            return
        try:
            request = json.loads(asked)
            chat = self.path == "/v1/chat/completions"
            prompt = request["messages"][-1]["content"] if chat else request["prompt"]
            count, delay_s = int(request.get("max_tokens", 16)), float(request.get("delay_s", 0.0))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.answer_json({"error": {"message": f"cannot read the request: {error!r}"}}, 400)
            return
        text = self.engine.generate(prompt, count, delay_s)
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        self.answer_json(
            {
                "model": self.model,
                "choices": [{"index": 0, "finish_reason": "length", **choice}],
                "nodes": self.engine.hosts,
            }
        )

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), "application/json")

    def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # requests that are being answered are answered before the end
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, such as a health check by TCP, is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible stand-in on Ray actors.")
    parser.add_argument("--host", default=os.environ.get("RAYCLUSTER_SERVICE_HOST", "0.0.0.0"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("RAYCLUSTER_SERVICE_PORT", "8000")))
    parser.add_argument("--model", default="parrot")
    parser.add_argument("--api-key", default=os.environ.get("VLLM_API_KEY", ""))
    given = parser.parse_args()
    ray.init(log_to_driver=False)
    print(f"loading {given.model}", flush=True)
    Handler.engine, Handler.model, Handler.api_key = Engine(), given.model, given.api_key
    server = Server((given.host, given.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving {given.model} on nodes {' '.join(Handler.engine.hosts)}", flush=True)
    server.serve_forever()
    server.server_close()
    print("no longer serving", flush=True)


if __name__ == "__main__":
    main()
