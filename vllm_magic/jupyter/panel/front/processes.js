// The processes of the server that is shown, as a tree.

function processTree() {
  let name = ""; // the server that the rows belong to
  const rows = node("table", { class: "vmp-table" });
  const empty = node("div", { class: "vmp-quiet", text: "The server has no process." });
  const el = node("div", { class: "vmp-wide" }, rows, empty);

  function receive({ name: server, rows: processes }) {
    name = server;
    setVisible(rows, processes.length > 0);
    setVisible(empty, processes.length === 0);
    updateChildren(rows, processes, () =>
      tableParts(["process", "pid", "memory", "CPU", "threads", "VRAM", "how it is ended"], processes.map(([depth, title, pid, memory, cpu, threads, vram, end]) => [
        `${"   ".repeat(Math.max(0, depth - 1))}${depth ? "└ " : ""}${title}`, pid, memory === null ? "–" : gib(memory), cpu === null ? "–" : `${cpu} %`, threads ?? "–", vram === null ? "–" : gib(vram), end,
      ])),
    );
  }

  return {
    el,
    receive,
    update({ chosen }) {
      const running = chosen === null || chosen.ended !== null ? "" : chosen.name;
      if (running === "" || running !== name) receive({ name: running, rows: [] });
    },
  };
}
