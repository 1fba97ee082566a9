"""A start that continues a download is refused if the disk is too small for the rest."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import download_space
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import StartFailed

if TYPE_CHECKING:
    from pathlib import Path

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil has it


class TestDisk:
    @pytest.fixture
    def snapshot(self, tmp_path) -> Path:
        """A model of which one of two files is there, and a part of the other."""
        kept = tmp_path / "hub/models--m--Tiny"
        snapshot = kept / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (kept / "blobs").mkdir()
        (kept / "refs").mkdir()
        (kept / "refs/main").write_text("a" * 40)
        (kept / "blobs/one").write_bytes(bytes(1000))
        (snapshot / "1.safetensors").symlink_to("../../blobs/one")
        (kept / "blobs/two.incomplete").write_bytes(bytes(500))
        write_index(snapshot)
        return snapshot

    def check(self, snapshot: Path, *words: str, free: int, monkeypatch) -> None:
        monkeypatch.setattr(download_space.shutil, "disk_usage", lambda _: Usage(10**9, 0, free))
        environ = {"HF_HUB_CACHE": str(snapshot.parents[2])}
        download_space.check(PlannedStart(ServerSpec("m/Tiny", words), environ, "/nowhere/vllm"))

    def test_too_little(self, snapshot, monkeypatch):
        with pytest.raises(StartFailed) as refused:
            self.check(snapshot, free=499, monkeypatch=monkeypatch)
        assert refused.value.cause.startswith("The weights of m/Tiny need 0.0 GiB more on the disk of ")
        assert "--download-dir" in refused.value.hint
        self.check(snapshot, free=500, monkeypatch=monkeypatch)

    def test_another_format(self, snapshot, monkeypatch):
        self.check(snapshot, "--load-format", "dummy", free=0, monkeypatch=monkeypatch)

    def test_all_is_there(self, snapshot, monkeypatch):
        (snapshot / "2.safetensors").write_bytes(bytes(10))
        self.check(snapshot, free=0, monkeypatch=monkeypatch)

    @pytest.mark.parametrize(
        "index",
        [
            {"metadata": {}},
            {"metadata": None},
            {"metadata": {"total_size": "2000"}},
            {"weight_map": None},
            {"weight_map": {"a": "../../1.safetensors", "b": ["2.safetensors"]}},
        ],
    )
    def test_an_index_that_does_not_tell(self, snapshot, monkeypatch, index):
        write_index(snapshot, **index)
        self.check(snapshot, free=0, monkeypatch=monkeypatch)

    def test_no_index(self, snapshot, monkeypatch):
        (snapshot / "model.safetensors.index.json").unlink()
        self.check(snapshot, free=0, monkeypatch=monkeypatch)


def write_index(snapshot: Path, **fields: Any) -> None:
    index = {
        "metadata": {"total_size": 2000},
        "weight_map": {"a": "1.safetensors", "b": "2.safetensors"},
        **fields,
    }
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
