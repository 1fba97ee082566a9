"""The panel and a chart in the pages of front ends that this machine does not have, by the marks of their light and dark themes.

Pictures of each go to build/shots/theme-*.png.
"""

from __future__ import annotations

import pytest

from vllm_magic.jupyter.panel import widget
from vllm_magic.plotting import svg_chart
from vllm_magic.plotting.svg_chart import Axes, Chart, Mark, Series

from .contrast import faint
from .notebooks import SHOTS

RELEASE = {
    "text": "tiny released in 1.20 s.",
    "verified": True,
    "proof": "NVML memory",
    "note": "",
    "ended": [[100, "vllm", "SIGTERM"], [101, "VLLM::EngineCore", "SIGKILL"]],
    "left": [],
    "again": False,
    "vram": [[0, "H200", 2**30, 5 * 2**30, 2**30, 4 * 2**30]],
}
CHOSEN = {
    "name": "tiny",
    "model": "org/tiny",
    "state": "released",
    "url": "http://127.0.0.1:8000",
    "pid": 100,
    "exposed": False,
    "terms": ["kept 1m after the kernel"],
    "log": "",
    "began": 0,
    "ended": 60,
    "times": [["starting", 0], ["ready", 9]],
    "ready_after": 9.0,
    "warm": False,
    "stages": [],
    "error": None,
    "fields": {"model": "org/tiny", "flags": "", "gpus": ""},
    "idle_release": "",
    "release": RELEASE,
}
SERVERS = [
    {"name": "tiny", "state": "released", "keep": True, "may_go": True},
    {"name": "other", "state": "ready", "keep": False, "may_go": False},
    {"name": "third", "state": "failed", "keep": False, "may_go": True},
]
CHART = Chart(
    "tiny · org/tiny",
    "",
    (Axes("tokens/s", (Series("in", svg_chart.ORANGE, ((0, 1), (5, 4), (9, 2))),), 60),),
    (Mark(2, "ready"), Mark(6, "stopped")),
    10,
    (),
)
# The page's own colours stand for those of the front end.
LIGHT, DARK = "background:#fff;color:#222", "background:#1f1f1f;color:#ccc"
VARIABLES = "--vscode-editor-background:{};--vscode-foreground:{};"
THEMES = {  # attributes of html, of body; whether the system is dark; whether the page is
    "lab-light": ("", 'data-jp-theme-light="true"', True, False),
    "lab-dark": ("", 'data-jp-theme-light="false"', False, True),
    "vscode-light": ("", 'class="vscode-light"', True, False),
    "vscode-dark": ("", 'class="vscode-dark"', False, True),
    "vscode-contrast": ("", 'class="vscode-high-contrast"', False, True),
    "vscode-contrast-light": ("", 'class="vscode-high-contrast vscode-high-contrast-light"', True, False),
    "colab-light": ('theme="light"', "", True, False),
    "colab-dark": ('theme="dark"', "", False, True),
    "marimo-light": ('style="color-scheme:light"', 'class="light light-theme"', True, False),
    "marimo-dark": ("", 'class="dark dark-theme" style="color-scheme:dark;STYLE"', False, True),
    "classic": ("", 'class="notebook_app"', True, False),
    "system-light": ("", "", False, False),
    "system-dark": ("", "", True, True),
}
# anywidget calls `render` with an element; in marimo the element and the style are in a shadow root.
_RENDER = """async ([script, css, picture, chart, shadow]) => {
    const panel = document.createElement('div')
    document.body.append(panel)
    const root = shadow ? panel.attachShadow({ mode: 'open' }) : panel
    const style = document.createElement('style')
    style.textContent = css
    const el = document.createElement('div')
    root.append(style, el)
    const model = { get: () => picture, on() {}, off() {}, send() {} }
    const module = await import(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })))
    module.default.render({ model, el })
    const figure = document.createElement('div')
    figure.id = 'figure'
    figure.innerHTML = chart
    document.body.append(figure)
}"""
_BRIGHTNESS = "el => getComputedStyle(el).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
GREY = "rgb(127, 127, 127)"  # the colour of a chart's text in a page without any theme
_FILL = "el => getComputedStyle(el).fill"


@pytest.mark.parametrize("name", THEMES)
def test_it_can_be_read(browser, name):
    html, body, system_dark, dark = THEMES[name]
    colours = DARK if dark else LIGHT
    if name.startswith("vscode"):
        colours += ";" + VARIABLES.format(*("#1f1f1f", "#ccc") if dark else ("#fff", "#3b3b3b"))
    body = body.replace("STYLE", colours) if "STYLE" in body else f'{body} style="{colours}"'
    page = browser.context.new_page()
    try:
        page.emulate_media(color_scheme="dark" if system_dark else "light")
        page.set_content(f"<!doctype html><html {html}><body {body}></body></html>")
        picture = {"servers": SERVERS, "chosen": CHOSEN}
        chart = svg_chart.themed(svg_chart.draw(CHART))
        shadow = name.startswith("marimo")
        page.evaluate(_RENDER, [widget.script(), widget.PanelWidget._css, picture, chart, shadow])
        root = page.locator(".vmp")
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"theme-{name}.png", full_page=True)
        red, green, blue = root.evaluate(_BRIGHTNESS)
        assert (red + green + blue < 3 * 128) == dark
        assert faint(root) == []
        assert page.locator("#figure text").first.evaluate(_FILL) != GREY
    finally:
        page.close()
