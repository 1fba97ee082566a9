"""The data that is kept of a release that is not proved: it restores the verifier, and invalid data is ignored."""

from __future__ import annotations

import json
import os
import time

import pytest
from records import IDENTIFIER

from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.ledger import state_folder
from vllm_magic.linux.processes import Identity
from vllm_magic.release import unproved
from vllm_magic.release.local_verifier import LocalVerifier
from vllm_magic.release.result import EndedProcess, Proof, Release

GPU = Gpu(0, "GPU-a", "H200", 80, 3, 77, (ComputeProcess(7, 3), ComputeProcess(8, None, computes=False)))
SEEN = Snapshot(0.0, (GPU,), None, None)
LEADER = Identity(11, 111)


def release(**changes) -> Release:
    ended = (EndedProcess(11, 111, "vllm", "SIGTERM"),)
    fields = {"verified": False, "may_recheck": True, "note": "GPU 0: not yet", **changes}
    return Release("tiny", "asked", 1.0, ended, (), 0, (), Proof.PROCESSES, **fields)


@pytest.fixture
def verifier(home):
    state_folder()
    made = LocalVerifier(
        Probe(), SEEN, ["GPU-a"], f"MAGIC_VLLM_SERVER={IDENTIFIER}".encode(), Identity(5, 55)
    )
    made.known = {LEADER, Identity(12, 112)}
    made._before = SEEN
    return made


@pytest.fixture
def file(home, verifier):
    unproved.update(LEADER, verifier, release())
    path = home / "unproved" / f"{IDENTIFIER}.json"
    assert path.exists()
    return path


def test_the_verifier_is_restored(verifier):
    packed = json.loads(json.dumps(verifier.packed()))
    assert LocalVerifier.unpacked(Probe(), packed).packed() == verifier.packed()


def test_nothing_is_kept_without_a_gpu(home):
    none = LocalVerifier(Probe(), Snapshot(0.0, (), None, "no driver"), (), b"A=b")
    unproved.update(LEADER, none, release())
    assert not (home / "unproved").exists()


def test_nothing_is_kept_while_a_process_is_left(home, verifier):
    unproved.update(LEADER, verifier, _left())
    assert not (home / "unproved").exists()


def _left() -> Release:
    one = EndedProcess(11, 111, "vllm", "SIGKILL")
    return Release("tiny", "asked", 1.0, (), (one,), None, (), Proof.NONE, verified=False)


def test_a_proved_release_is_removed(home, verifier, file):
    unproved.update(LEADER, verifier, release(verified=True))
    assert not (home / "unproved").exists()


def test_the_file_is_private(file):
    assert unproved._read(file) is not None
    assert file.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0" * 8),
        ("place", ["elsewhere", "boot", "pid:[1]", 0]),
        ("name", 7),
        ("kernel", [1]),
        ("leader", "x"),
        ("chosen", [1]),
        ("baseline", [1]),
        ("loaded", {}),
        ("before", None),
        ("known", [[1, -1]]),
        ("ended", [[1, 2, "x"]]),
    ],
)
def test_an_invalid_field_is_ignored(file, field, value):
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {field: value}))
    assert unproved._read(file) is None
    file.write_text(json.dumps({name: one for name, one in kept.items() if name != field}))
    assert unproved._read(file) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"id": 1' + "[" * 10000])
def test_a_torn_file_is_ignored(file, text):
    file.write_text(text)
    assert unproved._read(file) is None


def test_an_old_file_is_removed(file):
    long_ago = time.time() - unproved.MAX_AGE - 1
    os.utime(file, (long_ago, long_ago))
    assert unproved._read(file) is None
    other = LocalVerifier(Probe(), SEEN, (), b"MAGIC_VLLM_SERVER=00000001")
    unproved.update(None, other, release())
    assert [one.name for one in file.parent.iterdir()] == ["00000001.json"]
