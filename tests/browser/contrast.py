"""How well the words of a panel stand out from what is behind them, by WCAG's contrast of two colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator

LEAST = 4.5  # AA, for text of any size
# Of each visible piece of text its contrast, as [ratio, text, class]. What cannot be used now is exempt (WCAG 1.4.3).
# https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
_MEASURE = r"""root => {
    const colour = text => {
        const [r, g, b, a = 1] = text.match(/^rgba?\((.*)\)$/)[1].split(/[,\s/]+/).map(Number)
        return [r, g, b, a]
    }
    const over = ([r, g, b, a], back) => [r, g, b].map((one, at) => a * one + (1 - a) * back[at])
    const behind = el => {
        if (!el) return [255, 255, 255]
        const own = colour(getComputedStyle(el).backgroundColor)
        return own[3] === 1 ? own.slice(0, 3) : over(own, behind(el.parentElement))
    }
    const seen = (el, top) => {
        let share = 1
        for (let one = el; one && one !== top.parentElement; one = one.parentElement) share *= getComputedStyle(one).opacity
        return share
    }
    const light = colours => {
        const [r, g, b] = colours.map(one => one / 255).map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const ratio = (el, style) => {
        const back = behind(el)
        const [r, g, b, a] = colour(style.color)
        const [high, low] = [light(over([r, g, b, a * style.opacity * seen(el, root)], back)), light(back)].sort((x, y) => y - x)
        return (high + 0.05) / (low + 0.05)
    }
    const found = []
    const look = (el, text, style) => {
        if (!text.trim() || !el.checkVisibility() || el.closest(':disabled, [aria-disabled], [inert], option')) return
        found.push([Math.round(100 * ratio(el, style)) / 100, text.trim().slice(0, 40), `${el.localName}.${el.className}`])
    }
    const words = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    while (words.nextNode()) {
        const el = words.currentNode.parentElement
        look(el, words.currentNode.data, { color: getComputedStyle(el).color, opacity: 1 })
    }
    for (const el of root.querySelectorAll('input, textarea')) {
        const style = el.value ? getComputedStyle(el) : getComputedStyle(el, '::placeholder')
        look(el, el.value || el.placeholder, { color: style.color, opacity: el.value ? 1 : style.opacity })
    }
    return found.sort(([one], [other]) => one - other)
}"""


def faint(part: Locator) -> list[tuple[float, str, str]]:
    """Return the contrast, the text and the element of each text in a part of the page that is too faint."""
    found = part.evaluate(_MEASURE)
    assert found
    return [tuple(one) for one in found if one[0] < LEAST]


def faint_under_the_pointer(part: Locator) -> list[tuple[float, str, str]]:
    """The same of each button while the pointer is on it."""
    found = []
    for button in part.locator("button:visible:not(:disabled, [aria-disabled])").all():
        button.hover()
        found += faint(button)
    return found
