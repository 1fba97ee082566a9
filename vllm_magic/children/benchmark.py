"""vLLM's own benchmark of a server: ``vllm bench serve`` (vLLM 0.32, benchmarks/serve.py), and the table that it prints."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from vllm_magic.children.child import ChildProcess
from vllm_magic.engine.address import past_proxies
from vllm_magic.engine.flags import abbreviations, flags
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.errors import VllmMagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.linux.processes import Identity

TITLE = "Serving Benchmark Result"
NONE = re.compile(r"Successful requests:\s+0\s*")  # a line of the table
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Timeout)\b")  # begins the last line of a traceback
REPORT = 1.0  # seconds between two reports
LOOK = 0.02  # seconds between two looks at who listens; one takes 0.1 ms
MOST_LINES = 5000  # of the output, kept from its end; a benchmark prints some hundred
# What is asked for unless the flags say otherwise: enough for a first look, in a minute on one GPU.
DEFAULTS = (
    ("--dataset-name", "random"),
    ("--random-input-len", "128"),
    ("--random-output-len", "64"),
    ("--num-prompts", "50"),
)
OURS = ("--base-url", "--host", "--port", "--backend")


def run(
    spec: ServerSpec,
    command: Command,
    args: Sequence[str],
    verify: Callable[[], object],
    report: Callable[[str, float], None] | None = None,
    leader: Identity | None = None,
) -> list[str]:
    """The lines of the table; an interrupt ends the benchmark.

    Args:
        spec: of the server.
        command: how it is reached.
        args: flags for ``vllm bench serve``.
        verify: called again and again; what it raises ends the benchmark. The program has the key, and sends it with
            each request to whoever listens on the server's port.
        report: called again and again with the last line that it said, and the seconds since it began.
        leader: the first process of the server. Once it has ended, its port may be another program's at once: the benchmark
            is killed, without waiting for the next look.

    Raises:
        VllmMagicError: it could not be run, or has failed.
        RequestFailed: the server has ended.
    """
    for word in args:  # vLLM takes the beginning of a flag for the flag
        if ours := abbreviations.begin_with(plain(word.partition("=")[0]), OURS):
            raise VllmMagicError(f"{ours[0]} is set for the server that is measured. Leave it out.")
    verify()
    # It takes the proxies of the environment, also for this machine: key and prompts would go there.
    env = {
        **past_proxies(os.environ, command.endpoint.address),
        "OPENAI_API_KEY": command.endpoint.api_key,
        "VLLM_API_KEY": None,
    }
    with contextlib.closing(ChildProcess(_words(spec, command, args), env, needs=leader)) as child:
        kept: deque[str] = deque(maxlen=MOST_LINES)
        began = reported = time.monotonic()
        for lines in child.lines(LOOK):
            verify()
            kept += lines
            now = time.monotonic()
            if report is not None and (lines or now - reported >= REPORT):
                reported = now
                report(kept[-1] if kept else "", now - began)
        code = child.exit_code()
    said = [*kept]
    table = _table(said)
    if code != 0 or not table:
        telling = [line for line in said if "rror" in line] or said
        raise VllmMagicError(
            f"vllm bench serve has failed (exit code {code}): {(telling or ['it said nothing'])[-1]}"
        )
    if any(NONE.fullmatch(line) for line in table):
        raise VllmMagicError(
            f"None of the requests of vllm bench serve has succeeded{_why(said)}. %vllm logs {spec.name} may tell more."
        )
    return table


def _table(said: Sequence[str]) -> list[str]:
    """From the title to the line that closes it: libraries complain behind it, at their exit."""
    begins = [number for number, line in enumerate(said) if TITLE in line]
    if not begins:
        return []
    title, *rest = said[begins[-1] :]
    end = next((number for number, line in enumerate(rest, 1) if line and not line.strip("=")), len(rest))
    return [title, *rest[:end]]


def _why(said: Sequence[str]) -> str:
    """The first error among the lines, behind a colon; of a traceback its last line."""
    for position, line in enumerate(said):
        if line.startswith("Error 0:"):
            first = line.partition(":")[2].strip()
            rest = said[position + 1 :] if first.startswith("Traceback") else ()
            return f": {next(filter(_RAISED.match, rest), first)}".rstrip(".")
    return ""


def _words(spec: ServerSpec, command: Command, args: Sequence[str]) -> list[str]:
    served = flags.value(spec.all_args, "--served-model-name")
    own = [
        "--base-url",
        command.endpoint.url,
        "--model",
        spec.model,
        *(("--served-model-name", served) if served else ()),
    ]
    defaults = [word for flag, value in DEFAULTS if not flags.has(args, flag) for word in (flag, value)]
    return [command.argv[0], "bench", "serve", *own, *defaults, *args]
