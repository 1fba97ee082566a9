"""The protocol between a job and its agent: lines in the job's log, and values in the head's store, with their names."""

from __future__ import annotations

import json
import os
import re
import secrets
from typing import TYPE_CHECKING, Any

from vllm_magic import durations
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE = "@vllm_magic "  # the beginning of a line that `on_node` writes to a job's log; JSON with the field "kind" follows
# The values of the field "kind".
BEGUN, PLACED, LISTENS, ENDS = "begun", "placed", "listens", "ends"
REFUSED, RELEASED, REPORTED = "refused", "released", "reported"
JOB_SPEC = "VLLM_MAGIC_JOB_SPEC"  # the variable of an agent's environment with its `messages.JobSpec`
METADATA = "vllm_magic"  # the key of a job's metadata for the server's name
SCHEME = "gcs://"  # the beginning of the address of a value that is stored as a Ray package


def _seconds(variable: str, default: float) -> float:
    """Return the seconds that an environment variable gives; the default if it is not set."""
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= durations.MOST:
        raise InvalidOption(f"{variable}={text} is not a sensible number of seconds.")
    return seconds


RENEWAL = _seconds("VLLM_MAGIC_CLUSTER_RENEWAL", 5.0)  # seconds between renewals of a lease
LEASE = _seconds("VLLM_MAGIC_CLUSTER_LEASE", 30.0)  # seconds without a renewal until the job ends itself
if RENEWAL > LEASE / 2:
    raise InvalidOption("VLLM_MAGIC_CLUSTER_RENEWAL must be at most half of VLLM_MAGIC_CLUSTER_LEASE.")


def job_id(name: str) -> str:
    """Return a new submission id for a server, of safe characters (Ray 2.60 cannot end a job with "/" in its id)."""
    return f"vllm-magic-{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:40]}-{secrets.token_hex(4)}"


def request(job: str) -> str:
    """Return the name under which the job's `messages.ServeRequest` is stored.

    The request holds keys. So the job removes it after reading it, and the agent empties it at the end.
    """
    return f"_ray_pkg_{job}_order"


def lease(job: str) -> str:
    """Return the name under which the lease is stored; each renewal changes the value."""
    return f"_ray_pkg_{job}_lease"


def line(kind: str, **more: Any) -> str:
    """Return a line for the job's log."""
    return LINE + json.dumps({"kind": kind, **more})


def parse(text: str) -> Mapping[str, Any] | None:
    """Return the content of a line that `line` made; None for any other line."""
    if not text.startswith(LINE):
        return None
    try:
        content = json.loads(text.removeprefix(LINE))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and "kind" in content else None


def last_line(log: Sequence[str], kind: str) -> Mapping[str, Any] | None:
    """Return the content of the last line of this kind in a job's log; None if there is none."""
    contents = [content for text in log if (content := parse(text)) and content["kind"] == kind]
    return contents[-1] if contents else None
