// The log of the server that is shown: the view follows the end of the log, can be paused, and can filter lines.

const LINES = 1000;
const LEVEL = /^(?:\([^)]*\)\s*)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b/;
const ERROR = /^(?:\([^)]*\)\s*)?(?:Traceback |\w+(?:\.\w+)*(?:Error|Exception)\b)/;

function logView() {
  const held = []; // the lines that came while the view was paused
  let paused = false;
  const text = node("pre", { class: "vmp-log", tabindex: "0", role: "log", "aria-label": "Log", "aria-live": "off" });
  const filter = node("input", { type: "search", placeholder: "filter", "aria-label": "Show only lines with", oninput: sift });
  const follow = node("input", { type: "checkbox", checked: true });
  const pause = button("Pause", () => {
    paused = !paused;
    if (!paused) add(held.splice(0));
    showCount();
  }, { class: "vmp-button vmp-small" });
  const path = node("span", { class: "vmp-quiet vmp-path" });
  const tools = node("div", { class: "vmp-tools" }, filter, node("label", { class: "vmp-check" }, follow, "Follow"), pause, path);
  const el = node("div", {}, tools, text);

  function showCount() {
    say(pause, paused ? (held.length ? `Go on (${held.length} new)` : "Go on") : "Pause");
  }

  function wanted(line) {
    return line.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }

  function sift() {
    for (const line of text.children) show(line, wanted(line));
    end();
  }

  function end() {
    if (follow.checked) text.scrollTop = text.scrollHeight;
  }

  function add(lines) {
    const made = lines.map(logLine);
    for (const line of made) show(line, wanted(line));
    text.append(...made);
    while (text.children.length > LINES) text.firstChild.remove();
    end();
  }

  return {
    el,
    opened: end,
    take({ fresh, skipped, lines }) {
      const all = skipped ? [`… ${skipped} lines are left out here: the log has them …`, ...lines] : lines;
      if (fresh) {
        held.length = 0;
        text.replaceChildren();
      }
      if (paused && !fresh) held.push(...all.slice(-LINES));
      else add(all);
      if (held.length > LINES) held.splice(0, held.length - LINES);
      showCount();
    },
    update({ chosen }) {
      say(path, chosen ? chosen.log : "");
      if (chosen === null && text.children.length) text.replaceChildren();
    },
  };
}

function logLine(line) {
  const level = LEVEL.exec(line);
  const kind = level ? level[1].toLowerCase() : ERROR.test(line) ? "error" : "";
  return node("div", { class: kind, text: line });
}
