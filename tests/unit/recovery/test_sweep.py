"""Folders and records that a crash left on disk: a sweep releases what provably belongs to it, and reports the rest."""

from __future__ import annotations

import json
import os
import time

import pytest
from records import record

from vllm_magic import ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard import record as records
from vllm_magic.guard.record import BrokenRecordError, Phase
from vllm_magic.recovery.sweep import sweep


@pytest.fixture
def probe():
    made = Probe()
    yield made
    made.close()


class TestWhatIsLeftAlone:
    @pytest.mark.parametrize("kept", [None, "tmp", "path"])
    def test_a_folder_that_was_half_made(self, home, probe, kept):
        """Its kernel was killed before it wrote the record."""
        paths = ledger.create("x")
        assert sweep(probe) == []
        assert paths.tmp.exists()  # it may be on its way
        if kept:
            (getattr(paths, kept) / "a file").touch()
        old = time.time() - 2 * ledger.CREATION_LIMIT
        os.utime(paths.path, (old, old))
        assert sweep(probe) == []
        assert paths.path.exists() is paths.tmp.exists() is bool(kept)


class TestRecords:
    def test_it_comes_back_as_it_was_written(self, tmp_path):
        written = record(outer=[1, 2], kept_until=3.5, segments=[[1, 2]], phase=Phase.KEPT)
        records.write(str(tmp_path), written)
        assert records.read(str(tmp_path)) == written
        assert (tmp_path / records.NAME).stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == [records.NAME]

    @pytest.mark.parametrize("cut", range(0, 400, 7))
    def test_a_record_cut_at_any_byte_is_refused(self, cut):
        whole = json.dumps(record()._asdict()).encode()
        assert len(whole) > 400
        with pytest.raises(BrokenRecordError):
            records.parse(whole[:cut])

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("kernel", [1]), ("kernel", ["1", 2]), ("kernel", None), ("kernel", [True, 1]), ("leader", [-1, 2]),
            ("place", ["a", "b", "c"]), ("place", [1, "b", "c", 0]), ("phase", "resting"), ("port", "80"),
            ("segments", [[1]]), ("gpus", "GPU-0"), ("args", [1]), ("since", "now"), ("baseline", [1]), ("keep", None),
            ("since", float("nan")), ("version", 2),
        ],
    )  # fmt: skip
    def test_an_invalid_field_is_refused(self, field, value):
        with pytest.raises(BrokenRecordError):
            records.parse(json.dumps({**record()._asdict(), field: value}).encode())

    def test_unknown_fields_are_ignored(self):
        fields = {**record()._asdict(), "colour": "blue"}
        assert records.parse(json.dumps(fields).encode()).name == "tiny"

    def test_a_failed_write_keeps_the_old_record(self, tmp_path, monkeypatch):
        records.write(str(tmp_path), record())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            records.write(str(tmp_path), record(name="other"))
        assert records.read(str(tmp_path)).name == "tiny"
        assert [path.name for path in tmp_path.iterdir()] == [records.NAME]
