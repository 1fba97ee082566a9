"""What one job and its agent say to each other by way of the cluster, and under which names."""

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

LINE = "@vllm_magic "  # begins a line of a job's log that is not vLLM's: JSON with a "said"
BEGUN, PLACED, LISTENS, ENDS = "begun", "placed", "listens", "ends"
REFUSED, RELEASED, LOOKED = "refused", "released", "looked"
ERRAND = "VLLM_MAGIC_ERRAND"  # in the environment of an agent
METADATA = "vllm_magic"  # of a job: the server's name
SCHEME = "gcs://"  # under which Ray keeps what is put as a package


def _seconds(variable: str, otherwise: float) -> float:
    text = os.environ.get(variable) or str(otherwise)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= durations.MOST:
        raise InvalidOption(f"{variable}={text} is no number of seconds.")
    return seconds


RENEWAL = _seconds("VLLM_MAGIC_CLUSTER_RENEWAL", 5.0)  # between renewals of a lease
LEASE = _seconds("VLLM_MAGIC_CLUSTER_LEASE", 30.0)  # without one until the job ends itself
if RENEWAL > LEASE / 2:
    raise InvalidOption("VLLM_MAGIC_CLUSTER_RENEWAL must be half of VLLM_MAGIC_CLUSTER_LEASE at most.")


def job_id(name: str) -> str:
    """A new submission id for a server; Ray takes no other characters (2.60: a "/" leaves a job that cannot be ended)."""
    return f"vllm-magic-{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:40]}-{secrets.token_hex(4)}"


def order(job: str) -> str:
    """Where the job finds what it is to serve; it holds keys, so it is removed when it was read, and emptied at the end."""
    return f"_ray_pkg_{job}_order"


def lease(job: str) -> str:
    """What changes with each renewal."""
    return f"_ray_pkg_{job}_lease"


def line(said: str, **more: Any) -> str:
    """A line for the job's log."""
    return LINE + json.dumps({"said": said, **more})


def said(text: str) -> Mapping[str, Any] | None:
    """What such a line says; None for one of vLLM's."""
    if not text.startswith(LINE):
        return None
    try:
        found = json.loads(text.removeprefix(LINE))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "said" in found else None


def last(log: Sequence[str], what: str) -> Mapping[str, Any] | None:
    """The last of a job's own lines that says this."""
    found = [words for text in log if (words := said(text)) and words["said"] == what]
    return found[-1] if found else None
