"""What is left to children: by the limits of this process, and by those of its control groups."""

from __future__ import annotations

import os
import resource

import pytest

from vllm_magic.linux import limits


def test_open_files():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits.open_files() == (None if most == resource.RLIM_INFINITY else most)


@pytest.mark.parametrize(
    ("line", "folders"),
    [("0::/a/b", ("", "a", "a/b")), ("8:pids:/a/b", ("pids", "pids/a", "pids/a/b"))],
)
def test_the_smallest_rest_of_the_control_groups(tmp_path, line, folders):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:cpu:/\n{line}\n")
    for folder, most, used in zip(folders, ("max", "100", "50"), ("7", "90", "20"), strict=True):
        group = tmp_path / "sys/fs/cgroup" / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / "pids.max").write_text(f"{most}\n")
        (group / "pids.current").write_text(f"{used}\n")
    assert list(limits._left_to_groups(str(tmp_path))) == [30, 10]


def test_no_control_groups(tmp_path):
    assert list(limits._left_to_groups(str(tmp_path))) == []


class TestUser:
    @pytest.fixture
    def root(self, tmp_path) -> str:
        """A /proc with three threads in two processes of this user."""
        for pid, threads in (("10", ("10", "11")), ("20", ("20",))):
            for thread in threads:
                (tmp_path / f"proc/{pid}/task/{thread}").mkdir(parents=True)
        (tmp_path / "proc/sys").mkdir()
        return str(tmp_path)

    @pytest.fixture
    def user(self, monkeypatch) -> int:
        """The owner of these processes, as a user who is not root."""
        monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (5, 9))
        owner = os.getuid() or 1000
        monkeypatch.setattr(limits.os, "getuid", lambda: owner)
        return owner

    def test_the_threads_of_the_user_count(self, root, user):
        if os.stat(root).st_uid != user:
            for folder in ("10", "20"):
                os.chown(f"{root}/proc/{folder}", user, -1)
        assert list(limits._left_to_user(root)) == [2]

    def test_root_is_not_limited(self, root, user, monkeypatch):
        monkeypatch.setattr(limits.os, "getuid", lambda: 0)
        assert list(limits._left_to_user(root)) == []

    def test_no_limit(self, root, user, monkeypatch):
        monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
        assert list(limits._left_to_user(root)) == []


def test_shared_memory(tmp_path):
    assert limits.free_shared_memory(str(tmp_path)) > 0
    assert limits.free_shared_memory(str(tmp_path / "none")) is None
