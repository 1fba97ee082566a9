// The GPUs: how much memory of each is in use, by whom, and how much the start in the form would take.

const HOLDERS = [
  ["mine", "this server"],
  ["server", "other servers here"],
  ["other", "other processes"],
];

function gpuBars() {
  const rows = node("div", { class: "vmp-gpus" });
  const key = node("div", { class: "vmp-legend", "aria-hidden": "true" });
  const note = node("div", { class: "vmp-quiet" });
  let lastRows = []; // the last rows that the kernel sent
  const el = node("section", { "aria-label": "GPUs" }, rows, key, note);
  return {
    el,
    update({ gpus, chosen }) {
      const listed = gpus.rows.length > 0;
      if (listed) lastRows = gpus.rows;
      const shown = listed ? gpus.rows : lastRows.map(withoutMemory); // the rows stay, so that a late driver moves no part
      setVisible(el, shown.length > 0 || gpus.note !== "");
      setVisible(rows, shown.length > 0);
      setVisible(key, shown.length > 0);
      setVisible(note, shown.length === 0);
      setText(note, gpus.note ? `No GPU to show: ${gpus.note}.` : "");
      setAttribute(rows, "title", gpus.note || null);
      const open = chosen === null || chosen.ended !== null; // whether the form is for a start
      updateChildren(rows, shown, () => shown.map(gpuRow));
      updateChildren(key, [open, chosen !== null], () => legend(open, chosen !== null));
    },
  };
}

function withoutMemory(gpu) {
  return { ...gpu, used: null, parts: [0, 0, 0], claim: null };
}

function gpuRow(gpu) {
  const known = gpu.total !== null && gpu.used !== null;
  const share = (bytes) => `${Math.min(100, (100 * bytes) / (gpu.total || 1)).toFixed(2)}%`;
  const parts = gpu.parts.map((bytes, index) => [bytes, ...HOLDERS[index]]).filter(([bytes]) => bytes > 0);
  const holders = parts.map(([bytes, , who]) => `${who} ${gib(bytes)}`).join(", ") || (known ? "no process holds any of it" : "not known");
  const bar = node(
    "div",
    { class: "vmp-bar", role: "img", "aria-label": `GPU ${gpu.index}: ${gib(gpu.used)} of ${gib(gpu.total)} in use: ${holders}` },
    ...parts.map(([bytes, kind, who]) => node("i", { class: kind, style: `width:${share(bytes)}`, title: `${who}: ${gib(bytes)}` })),
  );
  const name = node("span", { class: "vmp-gpu-name", title: gpu.name, text: `GPU ${gpu.index} · ${gpu.name}` });
  const numbers = node("span", { class: "vmp-numbers", text: known ? `${gib(gpu.used)} of ${gib(gpu.total)}` : "memory not known" });
  const row = node("div", { class: "vmp-gpu" }, name, bar, numbers);
  if (gpu.claim === null || !known) return row;
  const missing = gpu.claim - (gpu.total - gpu.used);
  bar.append(node("b", { class: missing > 0 ? "vmp-claim lacks" : "vmp-claim", style: `left:${share(gpu.used)};width:${share(Math.min(gpu.claim, gpu.total - gpu.used))}`, title: `the start would take ${gib(gpu.claim)}` }));
  setText(numbers, missing > 0 ? `start takes ${gib(gpu.claim)}: ${gib(missing)} too much` : `${gib(gpu.used)} + ${gib(gpu.claim)} of ${gib(gpu.total)}`);
  setAttribute(numbers, "class", `vmp-numbers ${missing > 0 ? "wrong" : ""}`);
  return row;
}

function legend(open, mine) {
  const shown = HOLDERS.filter(([kind]) => mine || kind !== "mine");
  const keys = [...shown, ["free", "free"], ...(open ? [["vmp-claim", "the start would take"]] : [])];
  return keys.map(([kind, text]) => node("span", {}, node("i", { class: kind }), node("span", { text })));
}
