"""The panel in a real browser: start, watch, chat, stop; beside a busy cell, after the kernel's end, in two views."""

from __future__ import annotations

import re
import shlex
import time

import pytest
import stand_in
from playwright.sync_api import expect

from tests.real.environment import FLAGS, environment, fake_vram_env
from vllm_magic.linux import processes

from .panel import AGAIN, OPEN, Panel, open_panel, processes_of, started, until_gone

GIB = 2**30


def test_a_life(either, server, fake_gpus):
    panel = open_panel(either)
    panel.shot("nothing")
    panel.fill("org/tiny", "--max-model-len 256 --api-key sk-very-secret-key", "0")
    expect(panel.gpu(0)).to_contain_text("+ 22.1 GiB of 24.0 GiB")  # what vLLM will take
    panel.shot("form")
    expect(panel.root.get_by_label("Flags")).to_have_value("--max-model-len 256 --api-key sk-very-secret-key")
    panel.button("Start").click()
    panel.state("starting")
    expect(panel.root.get_by_role("progressbar")).to_be_visible()
    panel.shot("starting")
    panel.state("ready")
    expect(panel.gpu(0)).to_contain_text("6.00 GiB of 24.0 GiB")
    expect(panel.root.get_by_text("Ready after")).to_be_visible()

    panel.tab("Chat")
    panel.say("Hello there")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("word0 word1")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("tokens in")
    panel.shot("chat")
    panel.tab("Processes")
    expect(panel.root.get_by_role("tabpanel")).to_contain_text("VLLM::EngineCore")
    panel.tab("Log")
    expect(panel.log).to_contain_text("Application startup complete")
    expect(panel.log).not_to_contain_text("GET /metrics")
    panel.shot("ready")

    pids = processes_of(panel)
    panel.button("Stop").click()
    panel.state("released")
    assert not [pid for pid in pids if processes.read(pid)]
    expect(panel.root.locator(".vmp-release")).to_contain_text("proved by NVML memory")
    expect(panel.root.locator(".vmp-release .vmp-event-names")).to_contain_text("released")
    panel.shot("released")
    either.resize(900, 1150)
    panel.shot("narrow")
    assert [error for error in either.errors if "'schema'" not in error] == []  # that one is Notebook 7's own


def test_chat_ends_on_a_click(lab, server):
    server(token_s=0.3)
    panel = started(lab)
    panel.tab("Chat")
    panel.say("Tell me all")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("word1")
    panel.button("Stop generating").click()
    expect(panel.root.locator(".vmp-turn")).to_contain_text("stopped")
    panel.say("And now?")
    expect(panel.root.locator(".vmp-turn").nth(1)).to_contain_text("word0")
    panel.button("New chat").click()
    expect(panel.root.locator(".vmp-turn")).to_have_count(0)


def test_stop_beside_a_busy_cell(either, server):
    """The click counts while a cell sleeps, in both applications, with the current ipykernel."""
    panel = started(either, "import time; time.sleep(60)")
    either.run(1, wait=False)
    expect(either.cell(1)).to_contain_text("[*]")
    began = time.monotonic()
    panel.button("Stop").click()
    panel.state("released")
    assert time.monotonic() - began < 20  # the cell sleeps for 60 s; it is a matter of tenths
    panel.shot("busy")
    either.command("notebook:interrupt-kernel")


def test_a_kernel_that_hears_clicks_between_cells_only(lab, server):
    """With ipykernel 6 the panel says at once that the click waits."""
    lab.resize(1400, 1150)
    lab.open(OPEN, "import time; time.sleep(15)", kernel="ipykernel6")
    lab.run(0)
    panel = Panel(lab, 0)
    panel.start("tiny")
    lab.run(1, wait=False)
    expect(lab.cell(1)).to_contain_text("[*]")
    expect(panel.root.locator(".vmp-gone")).to_be_hidden()
    panel.wait_for_busy()
    panel.button("Stop").click()
    expect(panel.root.get_by_text("Queued until the cell ends")).to_be_visible()
    panel.shot("queued")
    panel.state("released")


def test_cancel_a_start(lab, server):
    server(hang_in="init")
    panel = open_panel(lab)
    panel.fill("tiny")
    panel.button("Start").click()
    panel.state("starting")
    panel.button("Cancel").click()
    panel.state("released")


def test_keys_and_double_clicks_do_no_harm(either, server):
    """Keys stay in the panel, the focus stays where it was, and the second click of two does not undo the first."""
    panel = open_panel(either, "print(1)")
    keys = either.page.keyboard
    keys.press("Escape")
    panel.root.get_by_role("tab", name="Log").focus()
    for key in ("d", "d", "ArrowDown", "Shift+Enter", "ArrowRight"):
        keys.press(key)
    expect(panel.root.get_by_role("tab", name="Processes")).to_be_focused()
    expect(panel.root.get_by_role("tab", name="Log")).to_have_attribute("aria-selected", "false")
    assert either.page.locator(".jp-Notebook .jp-Cell").count() == 2
    expect(either.cell(1)).not_to_contain_text("[1]")

    panel.root.get_by_label("Model").fill("tiny")
    keys.press("Enter")
    panel.state("ready")
    panel.button("Stop").focus()
    keys.press("Enter")
    panel.state("released")
    expect(panel.button("Start")).to_be_focused()

    keys.press("Enter")
    panel.state("ready")
    new = panel.servers.filter(has_text="New server")
    new.focus()
    keys.press("Enter")
    panel.state("no server")
    expect(new).to_be_focused()

    panel.choose("tiny")
    panel.state("ready")
    where = panel.button("Stop").bounding_box()
    either.page.mouse.move(where["x"] + 20, where["y"] + 10)
    for count in (1, 2):
        either.page.mouse.down(click_count=count)
        either.page.mouse.up(click_count=count)
        panel.state("released")


def test_a_start_that_fails_says_why(lab, server):
    server(fail="max_model_len")
    panel = open_panel(lab)
    panel.fill("tiny", "--max-model-len 100000")
    panel.button("Start").click()
    panel.state("failed")
    expect(panel.root.locator(".vmp-failure")).to_contain_text("--max-model-len")
    panel.shot("failed")
    panel.fill("tiny", "--max-model-len '")
    panel.button("Start").click()
    expect(panel.root.get_by_role("alert").filter(has_text="quot")).to_be_visible()


def test_the_kernel_is_restarted(either, server):
    """The servers are gone, and a panel that nobody hears does not look as if it were heard."""
    panel = started(either)
    pids = processes_of(panel)
    either.restart_kernel()
    expect(panel.root.locator(".vmp-gone")).to_contain_text(
        "these servers were released: tiny.", timeout=15_000
    )
    expect(panel.root.locator(".vmp-body")).to_have_attribute("inert", "")
    until_gone(pids)
    panel.shot("restarted")
    either.run(0)
    panel.state("no server")
    expect(panel.root.locator(".vmp-gone")).to_be_hidden()


def test_the_page_is_loaded_again(lab, server):
    panel = started(lab)
    lab.save()
    lab.reload()
    panel.state("ready")
    panel.button("Stop").click()
    panel.state("released")


def test_two_views_are_in_step(lab, server):
    first = open_panel(lab, AGAIN)
    lab.run(1)
    second = Panel(lab, 1)
    first.fill("tiny", "--max-model-len 128")
    expect(second.root.get_by_label("Model")).to_have_value("tiny")
    second.button("Start").click()
    first.state("ready")
    second.state("ready")
    first.button("Stop").click()
    second.state("released")


def test_three_servers(lab, server, fake_gpus):
    server(vram=2 * GIB)
    panel = open_panel(lab, "for name in 'abc':\n    %vllm start tiny --name {name} --gpus 0 --force")
    lab.run(1)
    expect(panel.servers).to_have_text(["a", "b", "c", "+ New server"])
    panel.choose("b")
    expect(panel.root.locator(".vmp-pill")).to_have_text("ready")
    expect(panel.gpu(0)).to_contain_text("6.00 GiB of 24.0 GiB")
    lab.theme("dark")
    panel.shot("three-dark")
    panel.button("Stop").click()
    panel.state("released")
    panel.choose("c")
    panel.state("ready")


def test_what_a_log_holds_is_text(lab, server):
    evil = '<script>alert(1)</script> <img src="http://127.0.0.1:9/x.png" onerror="alert(2)">'
    server(
        die={
            "who": "leader",
            "when": "import",
            "says": [evil, "ERROR 11-25 01:02:03 [x.py:1] it is over"],
            "rc": 1,
        }
    )
    panel = open_panel(lab)
    panel.fill("tiny")
    panel.button("Start").click()
    panel.state("failed")
    expect(panel.log).to_contain_text("<script>alert(1)</script>")
    assert panel.root.locator("img, script").count() == 0
    assert lab.dialogs == []


@pytest.fixture(scope="module")
def build():
    """The real vLLM, found in the cache of this machine: each test has a cache of its own."""
    return environment()


@pytest.fixture
def real_model(build, tmp_path, monkeypatch, fake_gpus) -> str:
    """The tiny model in a Hugging Face cache, by name; the engine that serves it holds fake VRAM."""
    folder = tmp_path / "huggingface/hub/models--tiny--llama"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(snapshot.name)
    for file in build.model.iterdir():
        (snapshot / file.name).symlink_to(file)
    found = {**build.env, **fake_vram_env(fake_gpus), "VLLM_MAGIC_EXECUTABLE": str(build.executable)}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return "tiny/llama"


@pytest.mark.real_vllm
@pytest.mark.timeout(600)
def test_the_real_vllm(lab, real_model):
    """One whole way on the CPU build. The README shows its pictures: `make pictures` copies them."""
    panel = open_panel(lab)
    panel.fill(real_model, shlex.join(FLAGS), "0")
    panel.button("Start").click()
    panel.state("starting")
    panel.wait_state("ready", seconds=300)
    panel.tab("Chat")
    panel.say("Hello")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("tokens in", timeout=120_000)
    panel.shot("real-chat")
    panel.tab("Processes")
    expect(panel.root.get_by_role("tabpanel")).to_contain_text("VLLM::EngineCore")
    panel.shot("real-ready")
    pids = processes_of(panel)
    panel.button("Stop").click()
    panel.wait_state("released", seconds=90)
    assert not [pid for pid in pids if processes.read(pid)]
    expect(panel.root.locator(".vmp-release")).to_contain_text("proved by NVML memory")
    panel.shot("real-released")


def test_a_spare_for_the_next_start(lab, server, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", str(stand_in.install_environment(tmp_path / "vllm")))
    panel = open_panel(lab, "%vllm spare on")
    lab.run(1)
    expect(panel.root.locator(".vmp-spare")).to_have_text(re.compile("spare: .* of memory"))
    panel.start("org/tiny")
    expect(panel.root.get_by_text("Ready after")).to_contain_text("from a spare")
    expect(panel.root.locator(".vmp-spare")).to_have_text(re.compile("spare: .* of memory"))
    panel.shot("spare")
