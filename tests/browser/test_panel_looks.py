"""The looks of the panel: words that can be read in both themes, parts that stay where they are; pictures of each state.

The pictures are for a person to look at: build/shots/panel-THEME-STATE-APP.png.
"""

from __future__ import annotations

import os
import signal

import pytest
from fake_gpu import fakegpu
from matrix.resources import Freezer
from playwright.sync_api import expect

from vllm_magic.linux import processes

from . import calm
from .contrast import faint, faint_under_the_pointer
from .panel import Panel, open_panel, processes_of

WIDE, NARROW = 1400, 600
HEIGHT = 1400
THREE = """
import os
os.environ.pop("STAND_IN")
for name in "abc":
    %vllm start tiny --name {name} --gpus 1 --force --keep 1m --ttl 30m
"""


class Photographer:
    """Takes pictures of a panel, and notes what cannot be read on them."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.themes = ["light", "dark"]
        self.found: list[tuple[str, float, str, str]] = []
        panel.page.command("application:toggle-left-area")

    def take(self, name: str, *, hover: bool = False) -> None:
        """Pictures of this state: in both themes, and as narrow as in a small window."""
        for theme in self.themes:
            self.panel.page.theme(theme)
            self.panel.page.resize(WIDE, HEIGHT)
            self._look(f"{theme}-{name}", hover=hover)
        self.panel.page.resize(NARROW, HEIGHT)
        self._look(f"narrow-{name}", hover=False)
        self.panel.page.resize(WIDE, HEIGHT)
        self.themes.reverse()  # the one that is there comes first: a change takes its time

    def _look(self, name: str, *, hover: bool) -> None:
        self.panel.shot(name)
        self.found += [(name, *one) for one in faint(self.panel.root)]
        if hover:
            self.found += [(f"{name}, hovered", *one) for one in faint_under_the_pointer(self.panel.root)]


@pytest.fixture
def eight_gpus(tmp_path, monkeypatch):
    root = fakegpu.build(tmp_path / "gpu", gpus=8)
    for name, value in fakegpu.env(root).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    return root


@pytest.fixture
def freezer():
    made = Freezer()
    yield made
    made.close()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("eight_gpus")
def test_a_life_can_be_read(lab, server):
    server(vram=6 << 30, hang_in="init", token_s=0.05)
    panel = open_panel(lab, THREE)
    photos = Photographer(panel)
    expect(panel.gpu(7)).to_be_visible()
    photos.take("nothing", hover=True)
    panel.fill("org/tiny", "--max-model-len 256", "0")
    expect(panel.gpu(0)).to_contain_text("+ 22.1 GiB of 24.0 GiB")
    photos.take("form")
    panel.button("Start").click()
    panel.state("starting")
    expect(panel.root.locator(".vmp-steps:visible")).to_contain_text("✓")
    photos.take("starting", hover=True)
    go_on(panel)
    panel.state("ready")
    expect(panel.log).to_contain_text("Application startup complete")
    photos.take("log", hover=True)
    panel.tab("Processes")
    expect(panel.root.get_by_role("tabpanel")).to_contain_text("VLLM::EngineCore")
    photos.take("processes")
    panel.tab("Chat")
    panel.say("Hello there")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("tokens in")
    photos.take("chat", hover=True)
    panel.tab("Doctor")
    panel.button("Look at this machine").click()
    expect(panel.root.get_by_role("tabpanel").get_by_role("status")).not_to_be_empty()
    photos.take("doctor")
    lab.run(1)
    panel.choose("b")
    expect(panel.root.locator(".vmp-term")).to_have_count(2)
    photos.take("three")
    assert photos.found == []


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("fake_gpus")
def test_an_end_can_be_read(lab, server, freezer):
    """Also one that is not proved: of a process that no signal ends while it is frozen."""
    panel = open_panel(lab, "import os; os.environ['STAND_IN'] = '{\"fail\": \"max_model_len\"}'")
    photos = Photographer(panel)
    panel.start("tiny")
    freezer.freeze(engine(panel))
    panel.button("Stop").click()
    panel.state("stopping")
    photos.take("stopping")
    panel.wait_state("failed", seconds=60)
    expect(panel.root.locator(".vmp-release")).to_contain_text("NOT proved")
    photos.take("doubtful", hover=True)
    freezer.thaw()
    panel.button("Try again").click()
    panel.state("released")
    photos.take("released", hover=True)
    lab.run(1)
    panel.servers.last.click()
    panel.fill("tiny", "--name other --max-model-len 100000")
    panel.button("Start").click()
    panel.state("failed")
    panel.root.get_by_text("What the log says").click()
    photos.take("failed", hover=True)
    lab.restart_kernel()
    expect(panel.root.locator(".vmp-gone")).to_be_visible()
    photos.take("dead")
    assert photos.found == []


@pytest.mark.usefixtures("fake_gpus")
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_moves_while_data_comes(lab, server, width):
    """Blocks of the panel have another place only in another state."""
    server(vram=6 << 30, hang_in="init", token_s=0.05)
    panel = open_panel(lab)
    lab.command("application:toggle-left-area")
    lab.resize(width, HEIGHT)
    expect(panel.gpu(1)).to_be_visible()
    calm.watch(panel)
    panel.fill("tiny", "--max-model-len 256", "0")
    expect(panel.gpu(0)).to_contain_text("+ 22.1 GiB of 24.0 GiB")
    panel.button("Start").click()
    panel.state("starting")
    expect(panel.root.locator(".vmp-steps:visible")).to_contain_text("✓")
    go_on(panel)
    panel.state("ready")
    expect(panel.log).to_contain_text("Application startup complete")
    expect(panel.gpu(0)).to_contain_text("6.00 GiB of 24.0 GiB")
    panel.tab("Chat")
    for count in (1, 2):
        panel.say("Hello there")
        expect(panel.root.locator(".vmp-turn")).to_have_count(count)
        expect(panel.root.locator(".vmp-turn").last).to_contain_text("tokens in")
    panel.tab("Processes")
    expect(panel.root.get_by_role("tabpanel")).to_contain_text("VLLM::EngineCore")
    assert calm.jumps(panel) == []


def engine(panel: Panel) -> int:
    return next(pid for pid in processes_of(panel) if "EngineCore" in processes.title(pid))


def go_on(panel: Panel) -> None:
    """End the hang of its start."""
    expect(panel.log).to_contain_text("EngineCore")
    os.kill(engine(panel), signal.SIGUSR1)
