"""`%%vllm` beside a bare httpx loop: cells of one kernel, which ask the same server the same."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

    from bench.target import Target

LIMIT = 300.0  # seconds for one cell
TOKENS = 200
SETUP = f"""
import json, os, httpx, vllm_magic
%load_ext vllm_magic
server = vllm_magic.start(os.environ["BENCH_MODEL"])
client = httpx.Client(base_url=server.url, headers={{"Authorization": f"Bearer {{server.api_key}}"}}, timeout=60, trust_env=False)
body = {{
    "messages": [{{"role": "user", "content": "the river"}}],
    "temperature": 0.0,
    "max_tokens": {TOKENS},
    "stream": True,
    "stream_options": {{"include_usage": True}},
}}
"""
OURS = f"%%vllm --temperature 0 --max-tokens {TOKENS}\nthe river"
BARE = """
with client.stream("POST", "/v1/chat/completions", json=body) as answer:
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                print(choice["delta"].get("content", ""), end="", flush=True)
"""


class Shown(NamedTuple):
    """When the first and the last of an answer could be seen, in seconds after the cell was sent.

    Attributes:
        text: the answer.
        tokens: in it; None where nothing was said of that.
    """

    first: float
    last: float
    text: str
    tokens: int | None


class Asking:
    """A kernel with a server, for the length of a `with`."""

    def __init__(self, target: Target) -> None:
        from jupyter_client.manager import KernelManager

        self._env = {
            **os.environ,
            **target.env,
            "VLLM_MAGIC_EXECUTABLE": target.executable,
            "BENCH_MODEL": target.model,
        }
        self._manager = KernelManager(kernel_name="python3", transport_encryption="auto")

    def __enter__(self) -> Self:
        self._manager.start_kernel(env=self._env)
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=LIMIT)
        self._run(SETUP)
        return self

    def __exit__(self, *_: object) -> None:
        self._run("%vllm stop")
        self._client.stop_channels()
        self._manager.shutdown_kernel()
        self._manager.cleanup_resources()

    def ask(self, source: str) -> Shown:
        """Run one of the two cells."""
        began = time.monotonic()
        shown: list[tuple[float, str]] = []
        tokens = None
        for when, content in self._run(source):
            data = content.get("data", {})
            if text := content.get("text"):  # what is new
                shown.append((when, (shown[-1][1] if shown else "") + text))
            elif data.get("text/html", "").startswith("<small>"):  # the line below the answer
                counted = re.search(r"(\d+) out", data["text/plain"])
                tokens = int(counted[1]) if counted else None
            elif text := data.get("text/plain"):  # all of it, each time
                shown.append((when, text))
        return Shown(shown[0][0] - began, shown[-1][0] - began, shown[-1][1], tokens)

    def _run(self, source: str) -> list[tuple[float, dict[str, Any]]]:
        """What the cell puts out, and when.

        Raises:
            RuntimeError: it failed.
        """
        seen: list[tuple[float, dict[str, Any]]] = []
        reply = self._client.execute_interactive(
            source,
            timeout=LIMIT,
            output_hook=lambda message: seen.append((time.monotonic(), message["content"])),
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return seen
