"""The panel among the cells of its notebook: keys, cleared outputs, a kernel that is restarted in the middle of a start."""

from __future__ import annotations

import os
import signal

import pytest
from playwright.sync_api import expect

from vllm_magic.linux import processes

from .panel import AGAIN, Panel, open_panel, processes_of, until_gone

NOTE_SAVES = """() => {
    window.saves = []
    window.jupyterapp.shell.currentWidget.context.saveState.connect((_, state) => window.saves.push(state))
}"""
SAVED = "() => window.saves.includes('completed')"


def test_typing_is_typing(either, server):
    """In an input no key is a command of the notebook; but the one that saves still is."""
    panel = open_panel(either, "print(1)")
    keys = either.page.keyboard
    for name in ("Model", "Flags", "GPUs"):
        box = panel.root.locator(".vmp-form").get_by_label(name)
        box.focus()
        keys.type("abddxyzjk")
        keys.press("Escape")
        keys.type("dd")
        expect(box).to_have_value("abddxyzjkdd")
        expect(box).to_be_focused()
    box = panel.root.get_by_label("Show only lines with")
    box.focus()
    for key in ("a", "b", "d", "d", "x", "Enter", "Control+Enter", "Shift+Enter"):
        keys.press(key)
    expect(box).to_have_value("abddx")
    expect(either.page.locator(".jp-Notebook .jp-Cell")).to_have_count(2)
    expect(either.cell(1)).not_to_contain_text("[1]")
    assert either.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.mode") == "command"

    either.page.evaluate(NOTE_SAVES)
    box.focus()
    keys.press("Control+s")
    either.page.wait_for_function(SAVED)
    keys.press("Control+a")
    keys.type("dd")
    expect(box).to_have_value("dd")
    expect(either.page.locator(".jp-Notebook .jp-Cell")).to_have_count(2)


def test_the_output_is_cleared_during_a_start(lab, server):
    """It goes on, and the panel of another cell shows it."""
    _, pids = starting(lab, AGAIN)
    lab.command("notebook:clear-cell-output")
    expect(lab.page.locator(".vmp")).to_have_count(0)
    lab.run(1)
    again = Panel(lab, 1)
    again.state("starting")
    os.kill(next(pid for pid in pids if "EngineCore" in processes.title(pid)), signal.SIGUSR1)
    again.state("ready")
    again.button("Stop").click()
    again.state("released")
    until_gone(pids)


def test_the_kernel_is_restarted_during_a_start(either, server, traces):
    """Nothing of it is left, and the panel says so."""
    panel, pids = starting(either)
    either.restart_kernel()
    expect(panel.root.locator(".vmp-gone")).to_contain_text("these servers were released: tiny.")
    expect(panel.root.locator(".vmp-body")).to_have_attribute("inert", "")
    until_gone(pids)
    traces.wait()


def test_what_is_over_can_be_seen_again(lab, server, fake_gpus):
    """With its proof, until it is taken from the list; the keyboard is enough for that."""
    panel = open_panel(lab)
    for flags in ("--name one", "--name two"):
        panel.fill("tiny", flags)
        panel.button("Start").click()
        panel.state("ready")
        panel.button("Stop").click()
        panel.state("released")
        panel.servers.last.click()
        panel.state("no server")
    expect(panel.servers).to_have_text(["onereleased", "tworeleased", "+ New server"])
    panel.choose("one")
    expect(panel.root.locator(".vmp-chip[aria-pressed=true]")).to_contain_text("one")
    expect(panel.root.locator(".vmp-release")).to_contain_text("proved by NVML memory")
    expect(panel.root.locator(".vmp-release .vmp-event-names")).to_contain_text("released")
    panel.shot("ended")
    panel.servers.first.focus()
    lab.page.keyboard.press("Tab")
    expect(panel.button("Remove one from this list")).to_be_focused()
    lab.page.keyboard.press("Enter")
    expect(panel.servers).to_have_text(["tworeleased", "+ New server"])
    expect(panel.servers.first).to_be_focused()
    panel.state("no server")


def starting(page, *cells: str) -> tuple[Panel, list[int]]:
    """A panel with a start that hangs, and the pids of what it has so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN", '{"hang_in": "init"}')
        panel = open_panel(page, *cells)
    panel.fill("tiny")
    panel.button("Start").click()
    panel.state("starting")
    expect(panel.log).to_contain_text("EngineCore")
    return panel, processes_of(panel)
