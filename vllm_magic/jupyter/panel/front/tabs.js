// Tabs after the ARIA pattern: the arrow keys change the tab.

/**
 * Makes the tabs.
 * @param entries for each tab its name, its title and its content, an object with an element `el`
 * @param onChange called with the name of a tab that is opened
 * @param extra an element beside the tabs
 */
function tabs(entries, onChange, extra) {
  const list = node("div", { class: "vmp-tabs", role: "tablist", "aria-label": "Details" });
  const suffix = Math.random().toString(36).slice(2);
  const bodies = entries.map(([name, , body]) => node("div", { role: "tabpanel", id: `vmp-${name}-${suffix}`, "aria-labelledby": `vmp-tab-${name}-${suffix}`, hidden: true }, body.el));
  const heads = entries.map(([name, title], index) =>
    node("button", { type: "button", role: "tab", id: `vmp-tab-${name}-${suffix}`, "aria-controls": `vmp-${name}-${suffix}`, text: title, onclick: () => open(index), onkeydown: (event) => changeByKey(event, index) }),
  );
  list.append(...heads);

  function open(index, focus = false) {
    heads.forEach((head, at) => {
      setAttribute(head, "aria-selected", String(at === index));
      setAttribute(head, "tabindex", at === index ? 0 : -1);
      setVisible(bodies[at], at === index);
    });
    if (focus) heads[index].focus();
    entries[index][2].opened?.();
    onChange(entries[index][0]);
  }

  function changeByKey(event, index) {
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: heads.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    open((next + heads.length) % heads.length, true);
  }

  return { el: node("section", { "aria-label": "Details" }, node("div", { class: "vmp-tabs-row" }, list, extra), ...bodies), open };
}
