"""vLLM's own benchmark of a server: ``vllm bench serve`` (vLLM 0.32, benchmarks/serve.py), and the table that it prints."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from vllm_magic.children.child import ChildProcess
from vllm_magic.engine.address import no_proxy_variables
from vllm_magic.engine.flags import abbreviations, flags
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.errors import VllmMagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.linux.processes import Identity

TITLE = "Serving Benchmark Result"
NO_SUCCESS = re.compile(r"Successful requests:\s+0\s*")  # a line of the table
# The beginning of the last line of a traceback.
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Timeout)\b")
REPORT_INTERVAL = 1.0  # seconds between two reports
CHECK_INTERVAL = 0.02  # seconds between two checks that the server itself listens; each takes 0.1 ms
MOST_LINES = 5000  # lines of the output that are kept, the last ones; a benchmark prints some hundred
# The defaults of vllm_magic: they give a first impression, in a minute on one GPU.
DEFAULTS = (
    ("--dataset-name", "random"),
    ("--random-input-len", "128"),
    ("--random-output-len", "64"),
    ("--num-prompts", "50"),
)
OWN = ("--base-url", "--host", "--port", "--backend")


def run(
    spec: ServerSpec,
    command: Command,
    args: Sequence[str],
    verify: Callable[[], object],
    report: Callable[[str, float], None] | None = None,
    leader: Identity | None = None,
) -> list[str]:
    """Run the benchmark, and return the lines of its table. An interrupt ends it.

    Args:
        spec: the spec of the server.
        command: the command of the server, with its address and key.
        args: flags for ``vllm bench serve``.
        verify: called every `CHECK_INTERVAL` seconds; an error that it raises ends the benchmark. The benchmark sends the key
            with each request to any program that listens on the server's port.
        report: called repeatedly with the last line of the output, and the seconds since the beginning.
        leader: the first process of the server. When it ends, the benchmark is killed at once, since another program may take
            the port before the next check.

    Raises:
        VllmMagicError: the benchmark could not be run, or has failed.
        RequestFailed: the server has ended.
    """
    for word in args:  # vLLM accepts abbreviated flags
        if own := abbreviations.begin_with(plain(word.partition("=")[0]), OWN):
            raise VllmMagicError(f"{own[0]} is set for the server that is measured. Leave it out.")
    verify()
    # The benchmark would use the proxies of the environment for this machine too, and send the key and the prompts there.
    env = {
        **no_proxy_variables(os.environ, command.endpoint.address),
        "OPENAI_API_KEY": command.endpoint.api_key,
        "VLLM_API_KEY": None,
    }
    with contextlib.closing(ChildProcess(_words(spec, command, args), env, needs=leader)) as child:
        kept: deque[str] = deque(maxlen=MOST_LINES)
        began = reported = time.monotonic()
        for lines in child.lines(CHECK_INTERVAL):
            verify()
            kept += lines
            now = time.monotonic()
            if report is not None and (lines or now - reported >= REPORT_INTERVAL):
                reported = now
                report(kept[-1] if kept else "", now - began)
        code = child.exit_code()
    output = [*kept]
    table = _table(output)
    if code != 0 or not table:
        errors = [line for line in output if "rror" in line] or output
        raise VllmMagicError(
            f"vllm bench serve has failed (exit code {code}): {(errors or ['it has printed nothing'])[-1]}"
        )
    if any(NO_SUCCESS.fullmatch(line) for line in table):
        raise VllmMagicError(
            f"None of the requests of vllm bench serve has succeeded{_first_error(output)}. %vllm logs {spec.name} may show more."
        )
    return table


def _table(output: Sequence[str]) -> list[str]:
    """Return the lines of the table; [] if there is none. Libraries may print warnings below it, at their exit."""
    begins = [number for number, line in enumerate(output) if TITLE in line]
    if not begins:
        return []
    title, *rest = output[begins[-1] :]
    end = next((number for number, line in enumerate(rest, 1) if line and not line.strip("=")), len(rest))
    return [title, *rest[:end]]


def _first_error(output: Sequence[str]) -> str:
    """Return the first error of the output, after a colon; for a traceback its last line; "" if there is no error."""
    for position, line in enumerate(output):
        if line.startswith("Error 0:"):
            first = line.partition(":")[2].strip()
            rest = output[position + 1 :] if first.startswith("Traceback") else ()
            return f": {next(filter(_RAISED.match, rest), first)}".rstrip(".")
    return ""


def _words(spec: ServerSpec, command: Command, args: Sequence[str]) -> list[str]:
    served = flags.value(spec.all_args, "--served-model-name")
    server = [
        "--base-url",
        command.endpoint.url,
        "--model",
        spec.model,
        *(("--served-model-name", served) if served else ()),
    ]
    defaults = [word for flag, value in DEFAULTS if not flags.has(args, flag) for word in (flag, value)]
    return [command.argv[0], "bench", "serve", *server, *defaults, *args]
