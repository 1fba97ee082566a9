"""`%vllm` as a person sees it: what is drawn, in place, and what Interrupt, Tab and a restart do."""

from __future__ import annotations

import re

import stand_in
from playwright.sync_api import expect

LOAD = "%load_ext vllm_magic"
START = "server = %vllm start tiny"
ANSWER = (
    "# The **sea**\n\n- salt\n- water `H2O`\n\n<img src=x onerror=alert(1)> [link](javascript:alert(2)) $a_1 * b_1 * c$ "
    r"$\href{javascript:alert(3)}{tex}$ "
) + "and so on " * 200
SCRIPT = "<script>alert('script')</script>"
HOSTILE = [f"ValueError: {SCRIPT}", "<img src=x onerror=\"alert('img')\">"]
FITS = "all => all.map(one => one.scrollHeight <= one.clientHeight)"  # on one line, as each has room for


def asks(monkeypatch, **options) -> None:
    for name, value in stand_in.options(**options).items():
        monkeypatch.setenv(name, value)


def test_a_session(either, fake_gpus, monkeypatch):
    asks(monkeypatch, load_s=6.0, token_s=0.02, says=ANSWER)
    chat = "%%vllm --max-tokens 500\nWhy is the sea salty?"
    either.open(f"{LOAD}\n{START}", "%vllm", chat, "server", "%vllm stop", "%vllm")
    either.run(0, wait=False)
    outputs = either.output(0).locator(".jp-OutputArea-child")
    expect(outputs).to_have_text(re.compile(r"^\s*tiny: .* · [1-9]\d* s"))
    either.shot("start")
    either.wait_for_end(0)
    expect(outputs).to_have_text(re.compile(r"^\s*tiny is ready after .* s \(.*\)\.\s*$"))

    either.run(1)
    row = either.output(1).locator("tbody tr")
    expect(row).to_contain_text("ready")
    expect(row).to_contain_text("2.00 GiB")

    either.run(2, wait=False)
    expect(either.output(2).locator("h1 strong")).to_have_text("sea")
    expect(either.output(2)).to_contain_text("and so on and so on")
    either.shot("streaming")
    either.menu("Kernel", "Interrupt Kernel")
    either.wait_for_end(2)
    expect(either.output(2)).to_contain_text("interrupted")
    expect(either.output(2)).to_contain_text("The text so far is kept")
    expect(either.output(2).locator("li")).to_have_text(["salt", "water H2O"])
    expect(either.output(2)).to_contain_text("<img src=x onerror=alert(1)> [link](javascript:alert(2))")
    expect(either.output(2).locator("mjx-container")).to_have_count(2)
    assert "javascript:alert(3)" not in either.output(2).inner_html()
    either.run(3)
    either.run(4)
    expect(either.output(4)).to_contain_text("proved by NVML memory")
    either.run(5)
    expect(either.output(5)).to_contain_text("No server runs")
    either.shot("session")
    either.theme("dark")
    either.shot("session-dark")
    assert either.dialogs == []


def test_completion(lab):
    lab.open(f"{LOAD}\n{START}", "")
    lab.run(0)
    for typed, texts, about in [
        ("%vllm st", ["start", "stop", "status"], "serve a model"),
        ("%vllm stop ", ["tiny", "--all"], ""),
        ("%vllm start other --max-num", ["--max-num-batched-tokens", "--max-num-seqs"], "int"),
    ]:
        lab.type(1, typed)
        entries = lab.completions()
        for text in texts:
            expect(entries.locator("code").get_by_text(text, exact=True)).to_be_visible()
        expect(entries.filter(has_text=about).first).to_be_visible()
        kinds = lab.page.locator(".jp-Completer-typeExtended").evaluate_all(FITS)
        assert kinds
        assert all(kinds)
        lab.shot(f"completion-{texts[0].strip('-')}")
        lab.page.keyboard.press("Escape")
    lab.type(1, "%vllm logs -n 1 ti")
    lab.completions()
    lab.page.keyboard.press("Enter")
    expect(lab.cell(1).locator(".cm-content")).to_have_text("%vllm logs -n 1 tiny")


def test_a_restart_from_the_menu(either, traces):
    either.open(f"{LOAD}\n{START}", LOAD, "%vllm")
    either.run(0)
    assert traces.processes()
    either.restart_kernel()
    traces.wait()
    either.run(1)
    either.run(2)
    expect(either.output(2)).to_contain_text("No server runs")


def test_what_a_log_holds_is_text(either, monkeypatch):
    asks(monkeypatch, die={"who": "engine", "when": "init", "says": HOSTILE})
    either.open(f"{LOAD}\n{START}", "%vllm logs -n 100")
    either.run(0)
    either.run(1)
    expect(either.output(0)).to_contain_text(f"StartFailed: {SCRIPT}")
    for text in HOSTILE:
        expect(either.output(1)).to_contain_text(text)
    expect(either.page.locator(".jp-OutputArea-output").locator("script, img")).to_have_count(0)
    assert either.dialogs == []
    either.shot("hostile")
