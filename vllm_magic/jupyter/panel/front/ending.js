// The end of a server: its release, with a chart in which the VRAM falls to its level before the start; or why it failed.

const BEFORE_END = 120; // seconds before the end that the chart shows
const EVENT_NAMES = { starting: "start", ready: "ready", stopping: "stop", released: "released", failed: "failed" };

function ending(send) {
  let name = "";
  const cause = node("strong");
  const hint = node("div");
  const lines = node("pre", { class: "vmp-lines", tabindex: "0" });
  const more = node("details", { class: "vmp-fold" }, node("summary", { text: "What the log says" }), lines);
  const failure = node("div", { class: "vmp-failure", role: "alert" }, cause, hint, more);
  const text = node("strong");
  const again = button("Try again", () => send("stop", { name }), { class: "vmp-button vmp-small ends" });
  const note = node("div", { class: "vmp-quiet" });
  const curve = chart("VRAM in use around the end", gib, [{ kind: "used", area: true }, { kind: "mine", area: true }], 84);
  const caption = node("div", { class: "vmp-quiet", text: "VRAM in use on its GPUs; the dashed line is what was in use before the start." });
  const chartBox = node("div", {}, curve.el, caption);
  const memory = node("table", { class: "vmp-table" });
  const wide = node("div", { class: "vmp-wide" }, memory);
  const ended = node("table", { class: "vmp-table" });
  const processes = node("details", { class: "vmp-fold" }, node("summary", { text: "Processes that ended" }), ended);
  const release = node("div", { class: "vmp-release" }, text, note, again, chartBox, wide, processes);
  const el = node("section", { class: "vmp-ending", "aria-label": "How it ended" }, failure, release);
  return {
    el,
    update({ chosen }, points) {
      const hasEnded = chosen !== null && chosen.ended !== null;
      setVisible(el, hasEnded);
      if (!hasEnded) return;
      name = chosen.name;
      const failed = chosen.state === "failed" && chosen.error !== null; // a later stop may have released the server
      setVisible(failure, failed);
      if (failed) {
        setText(cause, chosen.error.cause);
        setText(hint, chosen.error.hint);
        setVisible(more, chosen.error.lines.length > 0);
        setText(lines, chosen.error.lines.join("\n"));
      }
      const result = chosen.release;
      setVisible(release, result !== null && (result.ended.length > 0 || result.left.length > 0));
      if (release.hidden) return;
      setText(text, `${result.verified ? "✓ " : "⚠ "}${result.text}`);
      setAttribute(release, "class", `vmp-release ${result.verified ? "proved" : "doubtful"}`);
      setText(note, result.note);
      setVisible(note, result.note !== "");
      setVisible(again, result.again);
      const baseline = result.vram.length && result.vram.every((gpu) => gpu[2] !== null) ? result.vram.reduce((sum, gpu) => sum + gpu[2], 0) : null;
      const measured = points.some((point) => point[USED] !== null);
      setVisible(chartBox, measured);
      if (measured) {
        const until = Math.max(points[points.length - 1][AT], chosen.ended);
        const from = Math.max(chosen.began, chosen.ended - BEFORE_END);
        const events = chosen.times.filter(([, at]) => at >= from).map(([state, at]) => [at, EVENT_NAMES[state]]);
        curve.draw(points.map((point) => [point[AT], point[USED], point[HELD]]), from, until, events, baseline);
      }
      setVisible(wide, result.vram.length > 0);
      updateChildren(memory, result.vram, () => tableParts(["GPU", "before start", "before stop", "now", "freed"], result.vram.map(([index, name, ...bytes]) => [`${index}: ${name}`, ...bytes.map(gib)])));
      setVisible(processes, result.ended.length > 0);
      updateChildren(ended, result.ended, () => tableParts(["pid", "process", "ended by"], result.ended));
    },
  };
}
