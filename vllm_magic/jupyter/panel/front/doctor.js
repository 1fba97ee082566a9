// The findings of the doctor about this machine, each with a button or a command that fixes it.

function doctorView(send) {
  const look = button("Look at this machine", () => send("doctor"));
  const verdict = node("strong", { role: "status" });
  const findings = node("ul", { class: "vmp-findings" });
  const facts = node("pre", { class: "vmp-lines", tabindex: "0" });
  const el = node("div", {}, node("div", { class: "vmp-tools" }, look, verdict), findings, facts);
  setVisible(facts, false);
  return {
    el,
    receive({ findings: found, lines }) {
      setText(verdict, found.length ? (found.length === 1 ? "1 thing to do" : `${found.length} things to do`) : "All is well: nothing to do.");
      findings.replaceChildren(...found.map((problem) => finding(problem, send)));
      setVisible(facts, lines.length > 0);
      setText(facts, lines.join("\n"));
    },
    update({ under_way }) {
      look.disabled = under_way.includes("doctor") || under_way.includes("reap");
      setText(look, look.disabled ? "Looking …" : "Look at this machine");
    },
  };
}

function finding({ what, command, pids }, send) {
  const el = node("li", {}, node("div", { text: what }), node("code", { text: command }));
  if (pids === null) {
    el.append(" ", copyButton(() => command));
    return el;
  }
  // Processes that nobody owns are ended on a second click only.
  const confirm = button(`End ${pids.length === 1 ? "it" : "them"} now`, () => send("reap", { pids }), { class: "vmp-button vmp-small ends", hidden: true });
  const first = button(pids.length ? "End …" : "Release", () => {
    if (!pids.length) send("reap", { pids });
    setVisible(confirm, pids.length > 0);
    first.disabled = true;
  }, { class: "vmp-button vmp-small" });
  el.append(" ", first, " ", confirm);
  return el;
}
