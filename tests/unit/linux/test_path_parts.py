"""The parts of a path, with its links followed."""

from __future__ import annotations

import itertools
import os

import pytest

from vllm_magic.linux import path_parts


@pytest.fixture
def folder(tmp_path) -> str:
    """A folder without a link on its path."""
    return os.path.realpath(tmp_path)


def test_links_are_followed(folder):
    os.makedirs(f"{folder}/a/b")
    os.symlink("../link", f"{folder}/a/relative")
    os.symlink(f"{folder}/a/b", f"{folder}/link")
    above = list(path_parts.parts(folder))
    to_the_link = [f"{folder}/a", f"{folder}/a/relative", folder, f"{folder}/link"]
    after_the_link = [*above[1:], f"{folder}/a", f"{folder}/a/b"]
    assert list(path_parts.parts(f"{folder}/a/relative")) == [*above, *to_the_link, *after_the_link]


def test_a_part_is_yielded_before_it_is_read(folder):
    found = path_parts.parts(f"{folder}/none/below")
    assert f"{folder}/none" in itertools.islice(found, folder.count("/") + 2)
    with pytest.raises(FileNotFoundError):
        next(found)


def test_the_root():
    assert list(path_parts.parts("/")) == ["/"]


def test_links_in_a_circle(folder):
    os.symlink("b", f"{folder}/a")
    os.symlink("a", f"{folder}/b")
    with pytest.raises(OSError, match="Too many levels"):
        list(path_parts.parts(f"{folder}/a"))
