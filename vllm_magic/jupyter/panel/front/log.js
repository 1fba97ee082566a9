// The log of the chosen server: the view follows the end of the log, can be paused, and can filter lines.

const MOST_LINES = 1000; // the oldest lines are removed
const LEVEL = /^(?:\([^)]*\)\s*)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b/;
const ERROR = /^(?:\([^)]*\)\s*)?(?:Traceback |\w+(?:\.\w+)*(?:Error|Exception)\b)/;

function logView() {
  const waiting = []; // the lines that came while the view was paused
  let paused = false;
  const text = node("pre", { class: "vmp-log", tabindex: "0", role: "log", "aria-label": "Log", "aria-live": "off" });
  const filter = node("input", { type: "search", placeholder: "filter", "aria-label": "Show only lines with", oninput: applyFilter });
  const follow = node("input", { type: "checkbox", checked: true });
  const pause = button("Pause", () => {
    paused = !paused;
    if (!paused) add(waiting.splice(0));
    showCount();
  }, { class: "vmp-button vmp-small" });
  const path = node("span", { class: "vmp-quiet vmp-path" });
  const tools = node("div", { class: "vmp-tools" }, filter, node("label", { class: "vmp-check" }, follow, "Follow"), pause, path);
  const el = node("div", {}, tools, text);

  function showCount() {
    setText(pause, paused ? (waiting.length ? `Go on (${waiting.length} new)` : "Go on") : "Pause");
  }

  function matches(line) {
    return line.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }

  function applyFilter() {
    for (const line of text.children) setVisible(line, matches(line));
    scrollToEnd();
  }

  function scrollToEnd() {
    if (follow.checked) text.scrollTop = text.scrollHeight;
  }

  function add(lines) {
    const elements = lines.map(logLine);
    for (const line of elements) setVisible(line, matches(line));
    text.append(...elements);
    while (text.children.length > MOST_LINES) text.firstChild.remove();
    scrollToEnd();
  }

  return {
    el,
    opened: scrollToEnd,
    receive({ first, skipped, lines }) {
      const all = skipped ? [`… ${skipped} lines are left out here; the log file has them …`, ...lines] : lines;
      if (first) {
        waiting.length = 0;
        text.replaceChildren();
      }
      if (paused && !first) waiting.push(...all.slice(-MOST_LINES));
      else add(all);
      if (waiting.length > MOST_LINES) waiting.splice(0, waiting.length - MOST_LINES);
      showCount();
    },
    update({ chosen }) {
      setText(path, chosen ? chosen.log : "");
      if (chosen === null && text.children.length) text.replaceChildren();
    },
  };
}

function logLine(line) {
  const level = LEVEL.exec(line);
  const kind = level ? level[1].toLowerCase() : ERROR.test(line) ? "error" : "";
  return node("div", { class: kind, text: line });
}
