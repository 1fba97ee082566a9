// The end of a server: its release, with a chart of the VRAM down to its level before the start; or why it failed.

const BEFORE = 120; // seconds before the end that the chart shows
const NAMES = { starting: "start", ready: "ready", stopping: "stop", released: "released", failed: "failed" };

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
  const drawn = node("div", {}, curve.el, caption);
  const memory = node("table", { class: "vmp-table" });
  const wide = node("div", { class: "vmp-wide" }, memory);
  const ended = node("table", { class: "vmp-table" });
  const processes = node("details", { class: "vmp-fold" }, node("summary", { text: "Processes that ended" }), ended);
  const release = node("div", { class: "vmp-release" }, text, note, again, drawn, wide, processes);
  const el = node("section", { class: "vmp-ending", "aria-label": "How it ended" }, failure, release);
  return {
    el,
    update({ chosen }, points) {
      const over = chosen !== null && chosen.ended !== null;
      show(el, over);
      if (!over) return;
      name = chosen.name;
      const failed = chosen.state === "failed" && chosen.error !== null; // a later try may have released the server
      show(failure, failed);
      if (failed) {
        say(cause, chosen.error.cause);
        say(hint, chosen.error.hint);
        show(more, chosen.error.lines.length > 0);
        say(lines, chosen.error.lines.join("\n"));
      }
      const done = chosen.release;
      show(release, done !== null && (done.ended.length > 0 || done.left.length > 0));
      if (release.hidden) return;
      say(text, `${done.verified ? "✓ " : "⚠ "}${done.text}`);
      mark(release, "class", `vmp-release ${done.verified ? "proved" : "doubtful"}`);
      say(note, done.note);
      show(note, done.note !== "");
      show(again, done.again);
      const baseline = done.vram.length && done.vram.every((gpu) => gpu[2] !== null) ? done.vram.reduce((sum, gpu) => sum + gpu[2], 0) : null;
      const seen = points.some((point) => point[USED] !== null);
      show(drawn, seen);
      if (seen) {
        const until = Math.max(points[points.length - 1][AT], chosen.ended);
        const from = Math.max(chosen.began, chosen.ended - BEFORE);
        const events = chosen.times.filter(([, at]) => at >= from).map(([kind, at]) => [at, NAMES[kind]]);
        curve.draw(points.map((point) => [point[AT], point[USED], point[HELD]]), from, until, events, baseline);
      }
      show(wide, done.vram.length > 0);
      fill(memory, done.vram, () => table(["GPU", "before start", "before stop", "now", "freed"], done.vram.map(([index, name, ...bytes]) => [`${index}: ${name}`, ...bytes.map(gib)])));
      show(processes, done.ended.length > 0);
      fill(ended, done.ended, () => table(["pid", "process", "ended by"], done.ended));
    },
  };
}

function table(columns, rows) {
  const cells = (tag, texts) => texts.map((text) => node(tag, tag === "th" ? { scope: "col", text } : { text: String(text) }));
  return [node("thead", {}, node("tr", {}, ...cells("th", columns))), node("tbody", {}, ...rows.map((row) => node("tr", {}, ...cells("td", row))))];
}
