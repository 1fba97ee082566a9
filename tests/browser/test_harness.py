"""What the other tests here stand on: kernels of either kind, what a person does, and a browser that reaches this machine only."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .notebooks import SHOTS

PID = "import os; print(os.getpid())"
SLEEP = "import time\nprint('asleep')\ntime.sleep(600)"
REACH = """url => new Promise(done => {
    if (url.startsWith('ws')) new WebSocket(url).onerror = () => done('refused')
    else fetch(url, { mode: 'no-cors' }).then(() => done('reached'), () => done('refused'))
})"""


@pytest.mark.parametrize("kernel", ["ipykernel", "ipykernel6"])
def test_a_kernel(either, kernel):
    either.open("import ipykernel; print(ipykernel.__version__)", kernel=kernel)
    either.run(0)
    old = either.output(0).inner_text().startswith("6.")
    assert old == (kernel == "ipykernel6")


def test_what_a_person_does(either):
    either.open(PID, "", SLEEP)
    either.run(0)
    pid = either.output(0).inner_text().strip()
    assert pid.isdecimal()

    either.save()
    either.reload()
    expect(either.output(0)).to_have_text(pid)
    either.run(0)
    expect(either.output(0)).to_have_text(pid)

    either.type(1, "os.getpi")
    expect(either.completions()).to_contain_text(["getpid"])
    either.page.keyboard.press("Escape")

    either.run(2, wait=False)
    expect(either.output(2)).to_contain_text("asleep")
    either.menu("Kernel", "Interrupt Kernel")
    either.wait_for_end(2)
    expect(either.output(2)).to_contain_text("KeyboardInterrupt")

    either.restart_kernel()
    either.run(0)
    expect(either.output(0)).not_to_have_text(pid)

    either.theme("dark")
    either.resize(600)
    either.shot("harness")
    assert (SHOTS / f"harness-{either.server.app}.png").stat().st_size > 10_000


def test_nothing_is_reached_but_this_machine(lab, browser):
    """A name, an address and a websocket; whatever a test leaves in that list makes it fail."""
    lab.open("")
    assert lab.page.evaluate(REACH, lab.server.url) == "reached"
    assert browser.outside == []
    asked = ["http://name.invalid/", "http://192.0.2.1/", "ws://192.0.2.1/"]
    assert [lab.page.evaluate(REACH, url) for url in asked] == ["refused"] * 3
    assert browser.outside == asked
    browser.outside.clear()
