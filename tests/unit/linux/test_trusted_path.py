"""Paths that other users could lead elsewhere."""

from __future__ import annotations

import os

import pytest

from vllm_magic.linux import trusted_path


def test_what_is_ours_or_roots(tmp_path, monkeypatch):
    trusted_path.check("/")
    trusted_path.check("/tmp")  # everybody may write there, and nobody may replace what others made
    trusted_path.check(tmp_path / "not" / "there" / "yet")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "back").symlink_to("../link/below")
    trusted_path.check(tmp_path / "folder" / "back")
    monkeypatch.chdir(tmp_path)
    trusted_path.check("folder/../link/below")


def test_a_folder_that_a_group_may_write(tmp_path):
    """As all is in many containers."""
    tmp_path.chmod(0o770)
    trusted_path.check(tmp_path / "home")


def test_behind_a_link_it_is_looked_as_well(tmp_path):
    (tmp_path / "open" / "mine").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open" / "mine")
    with pytest.raises(PermissionError, match=f"{tmp_path}/open is a folder in which everybody"):
        trusted_path.check(tmp_path / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of another user")
@pytest.mark.parametrize("name", ["folder", "folder/link", "folder/link/below"])
def test_of_another_user(tmp_path, name):
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    os.lchown(tmp_path / name, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to another user"):
        trusted_path.check(tmp_path / "folder" / "link" / "below" / "home")


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        trusted_path.check(tmp_path / "a")
