"""One browser, and one server of each application, for all tests here; each test has a page and kernels of its own.

    def test_it(lab):               # or `notebook`, for Notebook 7, or `either`, for both one after the other
        lab.open("print(6 * 7)")
        lab.run(0)
        expect(lab.output(0)).to_have_text("42")

The fixtures that set variables (`home`, `executable`, `fake_gpus`, monkeypatch) count for the kernel of a notebook that
is opened after them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stand_in
from playwright.sync_api import expect

from . import chromium
from .notebooks import TIMEOUT, Notebook
from .servers import JupyterServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .chromium import Chromium

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash[_failed] = report.failed
    return report


# Not for the session: the tests of other folders, which come after, need the event loop that Playwright keeps.
@pytest.fixture(scope="package")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    """Chromium."""
    expect.set_options(timeout=TIMEOUT)
    with chromium.running(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="package")
def lab_server(tmp_path_factory) -> Iterator[JupyterServer]:
    """JupyterLab."""
    server = JupyterServer("lab", tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="package")
def notebook_server(tmp_path_factory) -> Iterator[JupyterServer]:
    """Notebook 7."""
    server = JupyterServer("notebook", tmp_path_factory.mktemp("notebook"))
    yield server
    server.close()


@pytest.fixture
def vllm(home, executable, monkeypatch, tmp_path) -> None:
    """Kernels find the stand-in for vLLM."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))


@pytest.fixture
def server(monkeypatch):
    """Have the servers of this test take their time, hold fake VRAM, or fail."""

    def configure(**options) -> None:
        for name, value in stand_in.options(**options).items():
            monkeypatch.setenv(name, value)

    configure(vram=6 << 30, import_s=0.4, init_s=0.6, load_s=0.3, token_s=0.02)
    return configure


def _page(browser: Chromium, server: JupyterServer, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    server.write_settings()
    notebook = Notebook(browser.context.new_page(), server)
    yield notebook
    if request.node.stash.get(_failed, False):
        notebook.shot(f"failed-{request.node.name}")
        print("errors in the page:", *notebook.errors, sep="\n")
        print("panels:", *notebook.page.locator(".vmp").all_inner_texts(), sep="\n")
    notebook.page.close()
    server.end_kernels()
    outside, browser.outside = browser.outside, []
    assert outside == []


@pytest.fixture
def lab(browser, lab_server, vllm, request) -> Iterator[Notebook]:
    """A page of JupyterLab."""
    yield from _page(browser, lab_server, request)


@pytest.fixture
def notebook(browser, notebook_server, vllm, request) -> Iterator[Notebook]:
    """A page of Notebook 7."""
    yield from _page(browser, notebook_server, request)


@pytest.fixture(params=["lab", "notebook"])
def either(request) -> Notebook:
    """A page of JupyterLab, then one of Notebook 7."""
    return request.getfixturevalue(request.param)
