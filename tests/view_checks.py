"""For tests of views: servers that never began, GPUs that do not exist, and a check that text and HTML agree."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.ledger import Folder
from vllm_magic.lifecycle.events import LeaderStarted
from vllm_magic.linux import processes
from vllm_magic.provisioning.base import Provisioner, StartKind
from vllm_magic.server.server import Server
from vllm_magic.view import View

GIB = 2**30
KEY = "sk-do-not-show"


class Page(HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def same(view: View) -> str:
    """Check that both forms of a view have the same text, and the HTML only plain tags; return the text."""
    plain, page = repr(view), Page(view._repr_html_())
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    assert page.attributes <= {"style"}
    assert " ".join(page.text).split() == plain.split()
    assert KEY not in plain + view._repr_html_()
    return plain


class Nothing(Provisioner):
    """A provisioner that launches nothing; the tests need only its command."""

    stop_grace = stop_patience = 0.0
    stops_at_exit = False

    def __init__(self, command: Command) -> None:
        self.command = command

    def launch(self, cancelled, tell):
        raise NotImplementedError


def a_server(
    model: str = "m/Tiny", name: str = "", args: tuple[str, ...] = (), gpus: str | None = None
) -> Server:
    """Make a server that never began; the test sends it the events that its supervisor would send."""
    spec = ServerSpec(model, args, name=name, gpus=gpus, env=(("VLLM_API_KEY", KEY), ("HF_TOKEN", KEY)))
    return with_command(spec, Command(("vllm", "serve"), Endpoint("127.0.0.1", 8001, KEY)))


def with_command(spec: ServerSpec, command: Command) -> Server:
    return Server(spec, Nothing(command), Probe(), print, lambda _: None)


def launched(one: Server, tmp_path: Path, pid: int | None = None) -> Server:
    process = processes.read(pid or os.getpid())
    assert process
    folder = Folder("3f9a", tmp_path, tmp_path / "t", tmp_path / "log", tmp_path / "kept.log")
    one._run.handle(LeaderStarted(folder, process.identity, (), (), StartKind.COLD, ""))
    return one


def snapshot(*listed: ComputeProcess, **changes) -> Snapshot:
    fields = {
        "index": 0,
        "uuid": "GPU-a",
        "name": "NVIDIA H200",
        "total": 24 * GIB,
        "used": 3 * GIB,
        "free": 21 * GIB,
    }
    gpu = Gpu(**{**fields, "processes": listed, **changes})
    return Snapshot(0.0, (gpu,), "580.00", None)
