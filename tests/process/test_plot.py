"""The figure of a server's life: it says what was seen, nothing in it overlaps, and nothing from outside is markup."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError

from vllm_magic.manager.manager import manager

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}text"))


def said(svg: str) -> list[str]:
    return [one.text or "" for one in texts(svg)]


def test_the_magic(shell, fake_gpus, monkeypatch):
    manager.close()  # an earlier test may have made it look at the GPUs where there were none
    monkeypatch.setattr(
        manager._registry, "_past", {}
    )  # servers of other tests, whose curves are there still
    with pytest.raises(UsageError, match="No server runs"):
        shell.run_line_magic("vllm", "plot")
    server = shell.run_line_magic("vllm", "start tiny --gpus 1")
    server.chat("one two", max_tokens=3)
    plot = shell.run_line_magic("vllm", "plot")
    data, _ = shell.display_formatter.format(plot)
    assert set(data) == {"text/plain", "text/html"}
    assert "<svg " in data["text/html"]
    assert "VRAM before the start  0.00 GiB" in data["text/plain"]
    assert "released" not in data["text/plain"]
    shell.run_line_magic("vllm", "stop")
    assert "released at" in repr(plot)  # as it is when it is shown
    assert "VRAM on GPU 1, GiB" in said(shell.run_line_magic("vllm", "plot tiny").svg)
    with pytest.raises(UsageError, match="No server is called other"):
        shell.run_line_magic("vllm", "plot other")


def test_names_of_the_past_are_completed(shell):
    shell.run_line_magic("vllm", "start tiny --name before")
    shell.run_line_magic("vllm", "stop")
    with provisionalcompleter():
        found = [one.text for one in shell.Completer.completions("%vllm plot be", 13)]
    assert found == ["before"]
