// Tabs after the ARIA pattern: the arrow keys go from one tab to the next.

function tabs(several, changed, beside) {
  const list = node("div", { class: "vmp-tabs", role: "tablist", "aria-label": "Details" });
  const stamp = Math.random().toString(36).slice(2);
  const bodies = several.map(([name, , body]) => node("div", { role: "tabpanel", id: `vmp-${name}-${stamp}`, "aria-labelledby": `vmp-tab-${name}-${stamp}`, hidden: true }, body.el));
  const heads = several.map(([name, title], index) =>
    node("button", { type: "button", role: "tab", id: `vmp-tab-${name}-${stamp}`, "aria-controls": `vmp-${name}-${stamp}`, text: title, onclick: () => open(index), onkeydown: (event) => turn(event, index) }),
  );
  list.append(...heads);

  function open(index, focus = false) {
    heads.forEach((head, at) => {
      mark(head, "aria-selected", String(at === index));
      mark(head, "tabindex", at === index ? 0 : -1);
      show(bodies[at], at === index);
    });
    if (focus) heads[index].focus();
    several[index][2].opened?.();
    changed(several[index][0]);
  }

  function turn(event, index) {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: heads.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open((to + heads.length) % heads.length, true);
  }

  return { el: node("section", { "aria-label": "Details" }, node("div", { class: "vmp-tabs-row" }, list, beside), ...bodies), open };
}
