// The processes of the server that is shown, as a tree.

function processTree() {
  let name = ""; // the server that the rows belong to
  const rows = node("table", { class: "vmp-table" });
  const empty = node("div", { class: "vmp-quiet", text: "No process of it runs." });
  const el = node("div", { class: "vmp-wide" }, rows, empty);

  function take({ name: whose, rows: several }) {
    name = whose;
    show(rows, several.length > 0);
    show(empty, several.length === 0);
    fill(rows, several, () =>
      table(["process", "pid", "memory", "CPU", "threads", "VRAM", "how it is ended"], several.map(([depth, name, pid, memory, cpu, threads, vram, end]) => [
        `${"   ".repeat(Math.max(0, depth - 1))}${depth ? "└ " : ""}${name}`, pid, memory === null ? "–" : gib(memory), cpu === null ? "–" : `${cpu} %`, threads ?? "–", vram === null ? "–" : gib(vram), end,
      ])),
    );
  }

  return {
    el,
    take,
    update({ chosen }) {
      const now = chosen === null || chosen.ended !== null ? "" : chosen.name;
      if (now === "" || now !== name) take({ name: now, rows: [] });
    },
  };
}
