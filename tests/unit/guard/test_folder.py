"""What becomes of a server's private folder and its shared memory at its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from records import record as a_record

from vllm_magic.guard import folder, record
from vllm_magic.linux.shared_memory import Segment


@pytest.fixture
def segment():
    """A file in /dev/shm that a server could have made."""
    path = Path("/dev/shm", f"psm_of-a-folder-{os.getpid()}")
    path.touch(mode=0o600)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def paths(tmp_path, segment):
    """The paths of a server that has ended, and left this segment."""
    private = tmp_path / "folder"
    (private / "t").mkdir(parents=True)
    status = segment.stat()
    mapped = Segment(status.st_dev, status.st_ino)
    record.write(str(private), a_record(segments=[list(mapped)]))
    record.write_existing_segments(str(private), [])
    return str(private), str(private / "t"), str(private / "log"), str(tmp_path / "kept.log")


def test_what_the_release_could_not_remove_goes_with_the_folder(paths, segment):
    """Somebody may have read the maps of a process while it ended, and then the kernel calls no file free for an instant."""
    assert folder.clear(*paths) == ""
    assert not segment.exists()
    assert not os.path.exists(paths[0])


def test_what_somebody_has_open_stays_until_it_is_closed(paths, segment):
    with segment.open("rb"):
        assert folder.clear(*paths) == f"{segment} stays, because another program has it open"
        assert segment.exists()
        assert os.path.exists(paths[0])
    assert folder.clear(*paths) == ""
    assert not segment.exists()
    assert not os.path.exists(paths[0])


def test_the_record_stays_as_long_as_a_file_of_the_server(paths, monkeypatch):
    """Without the record, nobody knows whose file that is."""
    remove = folder._remove
    (Path(paths[0]) / "busy").touch()
    monkeypatch.setattr(folder, "_remove", lambda name, fd: name != "busy" and remove(name, fd))
    assert folder.clear(*paths).startswith(f"{paths[0]}/busy could not be removed")
    assert record.read(paths[0]).segments
    monkeypatch.undo()
    assert folder.clear(*paths) == ""
    assert not os.path.exists(paths[0])
