"""Watches that the parts of a panel stay where they are while data comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .panel import Panel

# At each frame: where each part is, within the panel. A part may have another place only in another state, or with
# another tab, or when it comes back after it was hidden.
_WATCH = """root => {
    const places = new Map()
    window.jumps = []
    window.frames = 0
    const look = () => {
        window.watching = requestAnimationFrame(look)
        window.frames += 1
        const state = root.querySelector('.vmp-pill').textContent + ' ' + root.querySelector('[aria-selected=true]').textContent
        const top = root.getBoundingClientRect().top
        for (const part of root.querySelectorAll('.vmp-body > *, .vmp-tile, .vmp-form, [role=tabpanel], .vmp-log, .vmp-say')) {
            if (!part.checkVisibility()) continue
            const box = part.getBoundingClientRect()
            const name = `${state}: ${part.className || part.getAttribute('aria-label')} ${part.id}`
            const now = `${Math.round(box.top - top)} + ${Math.round(box.height)}`
            const before = places.get(part)?.[state]
            if (before !== undefined && before !== now) window.jumps.push(`${name}: ${before} -> ${now}`)
            places.set(part, { [state]: now })
        }
    }
    look()
}"""


def watch(panel: Panel) -> None:
    """Begin."""
    panel.root.evaluate(_WATCH)


def jumps(panel: Panel) -> list[str]:
    """End, and return which part was moved, in which state, from where to where (pixels: top + height)."""
    page = panel.page.page
    before = page.evaluate("window.frames")
    page.wait_for_function("before => window.frames > before", arg=before)
    page.evaluate("() => cancelAnimationFrame(window.watching)")
    return page.evaluate("window.jumps")
