"""Why uv and pip fail: from what they print."""

from __future__ import annotations

import pytest

from vllm_magic.installation import faults

FAULTS = {
    "error: Failed to install: torch-2.10.0.whl\n  cause: failed to copy file\n  cause: No space left on device (os error 28)": (
        "The disk is full",
        "--into DIR",
    ),
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": (
        "The disk is full",
        "--into",
    ),
    "error: Disk quota exceeded (os error 122)": ("disk quota", "--into DIR"),
    "error: failed to create directory `/home/a/.cache/uv`: Read-only file system (os error 30)": (
        "read-only",
        "UV_CACHE_DIR",
    ),
    "error: Hash mismatch for `torch==2.10.0`\n\nExpected:\n  sha256:ab\n\nComputed:\n  sha256:cd": (
        "does not have the hash that its index announces (torch==2.10.0)",
        "Try again",
    ),
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.": (
        "does not have the hash",
        "Try again",
    ),
    "error: Failed to fetch: `https://host/simple/vllm/`\n  cause: HTTP status client error (401 Unauthorized) for url": (
        "refuses the user name or the password",
        "UV_DEFAULT_INDEX",
    ),
    "WARNING: 401 Error, Credentials not correct for https://host/simple/vllm/": (
        "refuses the user name",
        "PIP_INDEX_URL",
    ),
    "error: HTTP status client error (403 Forbidden) for url (https://host/simple/vllm/)": (
        "(status 403)",
        "HTTPS_PROXY",
    ),
    "  cause: invalid peer certificate: UnknownIssuer": ("certificate", "SSL_CERT_FILE"),
    "error: Failed to download https://github.com/astral-sh/python-build-standalone/releases/x": (
        "uv could not download",
        "PROXY",
    ),
    "error: No interpreter found for Python 3.14 in managed installations or search path": (
        "There is no Python 3.14",
        "Install it",
    ),
    "The virtual environment was not created successfully because ensurepip is not\navailable. On Debian": (
        "no complete venv module",
        "%pip install uv",
    ),
    "/usr/bin/python3: No module named venv": ("no complete venv module", "python3-venv"),
    "  cause: HTTP status client error (404 Not Found) for url (https://host/files/torch.whl)": (
        "(status 404)",
        "later",
    ),
    "  Because there is no version of vllm==9.9 and you require vllm==9.9, we can conclude": (
        "has no vllm==9.9 for",
        "VERSION",
    ),
    "ERROR: No matching distribution found for vllm==9.9": ("has no vllm==9.9 for", "VERSION"),
    "ERROR: Could not find a version that satisfies the requirement vllm==0.17.0 (from versions: none)": (
        "shows no version of vllm==0.17.0",
        "the password of the index",
    ),
    "  Because vllm was not found in the package registry and you require vllm": (
        "no package vllm",
        "--download DIR",
    ),
    "  Because vllm==0.33.0 has no wheels with a matching Python ABI tag (e.g., `cp39`)": (
        "vllm==0.33.0 has no build for this machine: no matching Python ABI",
        "VERSION",
    ),
    "  x No solution found when resolving dependencies:": ("do not fit together", "VERSION"),
    "error: Request failed after 3 retries\n  cause: tcp connect error\n  cause: Connection refused (os error 111)": (
        "does not answer",
        "goes on where this one ended",
    ),
    "ERROR: HTTPSConnectionPool(host='files', port=443): Read timed out.": ("does not answer", "goes on"),
    "error: failed to open file `/opt/x`: Permission denied (os error 13)": (
        "cannot be written",
        "--into DIR",
    ),
    "OSError: [Errno 116] Stale file handle": ("has lost a file", "--into DIR"),
    "something\nerror: a new kind of failure\nmore": (
        "uv has failed (exit code 2): error: a new kind of failure",
        "last lines",
    ),
    "": ("uv has failed (exit code 2)", "last lines"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_they_print(text):
    found = faults.explain(text.splitlines(), 2, "uv")
    cause, hint = FAULTS[text]
    assert cause in found.cause
    assert hint in found.hint
    assert "\n" not in str(found)
    assert "{" not in str(found)


def test_a_program_that_was_killed():
    found = faults.explain(["Downloading torch"], 137, "uv")
    assert str(found).startswith("uv was killed (signal 9). The machine may have run out of memory")
    assert found.details == ["  Downloading torch"]


def test_a_password_in_the_output():
    found = faults.explain(["error: Failed to fetch: `https://user:hunter22222@host/simple`"], 2, "uv")
    assert "hunter22222" not in "".join([str(found), *found.details])
