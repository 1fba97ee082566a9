"""The models in the Hugging Face cache."""

from __future__ import annotations

import os
import time

import pytest

from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.hf_cache import Model
from vllm_magic.jupyter.display import views

GIB = 2**30


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "hub"
    for name, files in (
        ("models--org--large", {"a": 3 * GIB, "b": 5, "b.1f.incomplete": 3}),
        ("models--gpt2", {"c": 10, "d.incomplete": GIB}),
        ("datasets--org--x", {"e": 1}),
        ("models--empty", {}),
    ):
        blobs = folder / name / "blobs"
        blobs.mkdir(parents=True)
        for file, size in files.items():
            (blobs / file).touch()
            os.truncate(blobs / file, size)
            os.utime(blobs / file, (1e9, 1e9))
    (folder / "models--no--blobs").mkdir()
    (folder / "version.txt").touch()
    return folder


def test_what_is_there(cache):
    assert hf_cache.models(cache) == [
        Model("empty", 0, complete=True, changed=0.0),
        Model("gpt2", GIB + 10, complete=False, changed=1e9),
        Model("org/large", 3 * GIB + 8, complete=True, changed=1e9),
    ]


def test_there_is_no_cache(tmp_path):
    assert hf_cache.models(tmp_path / "none") == []
    assert "No model is in" in repr(views.models(tmp_path, [], []))


def test_what_is_seen(cache, manager, spec, monkeypatch):
    server = manager.start(spec("org/large", name="big"), wait=False).server
    shown = repr(views.models(cache, hf_cache.models(cache), [server]))
    large = next(line for line in shown.splitlines() if "org/large" in line)
    assert "3.00 GiB" in large
    assert "big" in large
    assert time.strftime("%Y-%m-%d", time.localtime(1e9)) in large
    assert "1.00 GiB, not complete" in shown
    assert "4.00 GiB in" in shown
    server.stop()
    assert "big" not in repr(views.models(cache, hf_cache.models(cache), [server]))
