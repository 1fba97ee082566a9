"""Why uv or pip failed, and what to do, from the lines that they print (uv 0.13, pip 23 to 26). No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.errors import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_LINES = 8  # lines of the output that an error shows
LONGEST_OUTPUT = 400  # lines in which the cause is searched, the last ones
AGAIN = "The same command goes on where this one ended: complete packages are kept"
_PACKAGE = r"[A-Za-z0-9][\w.\[\]-]{0,80}"


class _Fault(NamedTuple):
    """A fault in the output. Cause and hint are format strings for the groups of the match."""

    pattern: str
    cause: str
    hint: str


# The first one that is in the output counts: a full disk or a refused password also ends a download.
_FAULTS = (
    _Fault(
        r"os error 28\b|Errno 28\b|No space left on device",
        "The disk is full",
        "Free some space, or install into a folder on another disk: --into DIR. uv's cache is on the disk of UV_CACHE_DIR; "
        "`uv cache prune` makes room there",
    ),
    _Fault(
        r"os error 122\b|Errno 122\b|Disk quota exceeded",
        "The disk quota of this user is used up",
        "Free some space, or install into a folder on another disk: --into DIR, and set UV_CACHE_DIR to a folder there",
    ),
    _Fault(
        r"os error 30\b|Errno 30\b|Read-only file system",
        "A disk is read-only",
        "Install into a folder that you can write: --into DIR, and set UV_CACHE_DIR to another one there",
    ),
    _Fault(
        r"[Hh]ash mismatch for `?([^\s`]{1,100})|DO NOT MATCH THE HASHES",
        "A package does not have the hash that its index announces{0:name}: the download was cut off, or changed on its way",
        "Try again. If it stays so, a proxy or a mirror gives out a damaged file: use another index, or remove the file there",
    ),
    _Fault(
        r"\b401\b[^\n]{0,40}(?:Unauthorized|Client Error)|\(401\)|"
        r"(?:Unauthorized|Client Error)[^\n]{0,40}\b401\b|401 Error, Credentials not correct",
        "The package index refuses the user name or the password (status 401)",
        "Check them in UV_INDEX_URL, UV_DEFAULT_INDEX or UV_EXTRA_INDEX_URL, in PIP_INDEX_URL, and in uv.toml or pip.conf",
    ),
    _Fault(
        r"\b403\b[^\n]{0,40}(?:Forbidden|Client Error)",
        "The package index, or a proxy before it, refuses the request (status 403)",
        "Check the address of the index and your access to it, and HTTPS_PROXY",
    ),
    _Fault(
        r"invalid peer certificate|certificate verify failed|CERTIFICATE_VERIFY_FAILED|UnknownIssuer",
        "The certificate of the package index is not signed by an authority that is known here",
        "Behind a proxy that signs all traffic, set SSL_CERT_FILE to its certificate, or UV_SYSTEM_CERTS=1",
    ),
    _Fault(
        r"python-build-standalone|Failed to (?:download|install) (?:cpython|Python)",
        "uv could not download the Python for the environment",
        "Install that Python by other means, or check HTTPS_PROXY; UV_PYTHON_INSTALL_MIRROR names another source",
    ),
    _Fault(
        r"No interpreter found for (Python [\d.]+)|No download found for request: (\S+)",
        "There is no {0}{1} on this machine, and uv may not download one",
        "Install it, or allow uv to download it (UV_PYTHON_DOWNLOADS=automatic, without --from)",
    ),
    _Fault(
        r"ensurepip is not\s+(?:available|installed)|No module named '?(?:venv|ensurepip)|ensurepip[^\n]{0,120}returned non-zero",
        "This Python has no complete venv module",
        "Install uv, which needs none: %pip install uv. On Debian and Ubuntu, the package python3-venv helps too",
    ),
    _Fault(
        r"HTTP status client error \(404[^\n]{0,60}\)|404 Client Error|\(404 Not Found\)",
        "The package index does not have a file that it names (status 404)",
        "Try again later. A mirror that is not complete needs time, or another index",
    ),
    _Fault(  # pip does not say that the index has refused its password
        rf"satisfies the requirement ({_PACKAGE}(?:==[^\s,]+)?) \(from versions: none\)",
        "The package index shows no version of {0}",
        "Check the address, the user name and the password of the index in PIP_INDEX_URL and pip.conf. With --from, the folder "
        "may lack this package",
    ),
    _Fault(
        rf"there is no version of ({_PACKAGE}==\S+)|No matching distribution found for ({_PACKAGE}(?:==[^\s,]+)?)",
        "The package index has no {0}{1} for this Python and this machine",
        "Choose another version (%vllm install VERSION), or check which index uv and pip use",
    ),
    _Fault(
        rf"Because ({_PACKAGE}) was not found in the (?:package registry|provided package locations)",
        "There is no package {0} in the package index or the folder of wheels",
        "Check which index uv and pip use; a folder of --from must have been made with %vllm install --download DIR",
    ),
    _Fault(
        rf"({_PACKAGE}==[^\s,]+) has no wheels with a matching ([^\n,(]{{1,60}}?)(?: tag)?(?: \(|,|\n|$)",
        "{0} has no build for this machine: no matching {1}",
        "Choose another version: %vllm install VERSION",
    ),
    _Fault(
        r"No solution found when resolving|ResolutionImpossible|conflicting dependencies",
        "The packages that vLLM needs do not fit together in this package index",
        "Choose another version (%vllm install VERSION), or use the public index",
    ),
    _Fault(
        r"error sending request|Failed to fetch|Request failed after|dns error|tcp connect error|Connection refused|"
        r"Connection broken|IncompleteRead|[Rr]ead timed out|operation timed out|Network is unreachable|"
        r"ConnectionError|NewConnectionError|ConnectTimeout|Max retries exceeded|Connection reset|"
        r"error decoding response body|Failed to extract|connection closed before message completed|Remote end closed|"
        r"RemoteDisconnected|end of file before message length",
        "The network or the package index does not answer",
        "Check the network and HTTPS_PROXY. " + AGAIN,
    ),
    _Fault(
        r"Permission denied|os error 13\b|Errno 13\b",
        "A folder cannot be written",
        "Install into a folder that you can write: --into DIR, and set UV_CACHE_DIR to another one there",
    ),
    _Fault(
        r"os error 116\b|Errno 116\b|Stale file handle",
        "The network disk has lost a file (stale file handle)",
        "Try again, or install into a folder on a disk of this machine: --into DIR",
    ),
)


def explain(lines: Sequence[str], exit_code: int, program: str) -> InstallFailed:
    """Return the error for a program that has failed.

    Args:
        lines: what it has printed.
        exit_code: its exit code; 128 plus the number of the signal that killed it.
        program: its name.
    """
    last = [line for line in lines if line.strip()][-LONGEST_OUTPUT:]
    text = "\n".join(last)
    for pattern, cause, hint in _FAULTS:
        if found := re.search(pattern, text):
            return InstallFailed(_filled_in(cause, found), hint, last[-SHOWN_LINES:])
    if exit_code > 128:  # noqa: PLR2004 - a signal
        return InstallFailed(
            f"{program} was killed (signal {exit_code - 128})",
            f"The machine may have run out of memory: free some. {AGAIN}",
            last[-SHOWN_LINES:],
        )
    said = next((line.strip() for line in last if re.match(r"\s*(?:error|ERROR)\b", line)), "")
    return InstallFailed(
        f"{program} has failed (exit code {exit_code}){': ' if said else ''}{said[:300].rstrip('.')}",
        "Its last lines say why",
        last[-SHOWN_LINES:],
    )


def _filled_in(cause: str, found: re.Match[str]) -> str:
    groups = [group or "" for group in found.groups()]
    if "{0:name}" in cause:
        return cause.replace("{0:name}", f" ({groups[0].strip('`')})" if groups and groups[0] else "")
    return cause.format(*(group.strip("`.,") for group in groups))
