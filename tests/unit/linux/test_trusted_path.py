"""Paths that other users could redirect."""

from __future__ import annotations

import os

import pytest

from vllm_magic.linux import trusted_path


def test_paths_of_this_user_and_root_are_accepted(tmp_path, monkeypatch):
    trusted_path.check("/")
    trusted_path.check("/tmp")  # everybody may write there, and nobody may replace what others made
    trusted_path.check(tmp_path / "not" / "there" / "yet")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "back").symlink_to("../link/below")
    trusted_path.check(tmp_path / "folder" / "back")
    monkeypatch.chdir(tmp_path)
    trusted_path.check("folder/../link/below")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of another user")
def test_folders_of_other_users_are_accepted(tmp_path):
    """As in containers that run under any user id, in volumes, and below a project's folder."""
    (tmp_path / "theirs" / "open" / "mine").mkdir(parents=True)
    os.chown(tmp_path / "theirs", 65534, 65534)
    (tmp_path / "theirs" / "open").chmod(0o777)
    trusted_path.check(tmp_path / "theirs" / "open" / "mine")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of another user")
@pytest.mark.parametrize("name", ["link", "elsewhere/link"])
def test_a_link_of_another_user(tmp_path, name):
    """Also after a link that belongs to this user."""
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "link")
    (tmp_path / "elsewhere" / "link").symlink_to("below")
    os.lchown(tmp_path / name, 65534, 65534)
    with pytest.raises(PermissionError, match=f"{name} is a link that belongs to another user"):
        trusted_path.check(tmp_path / "link" / "home")


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    trusted_path.check(tmp_path / "home")


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        trusted_path.check(tmp_path / "a")
