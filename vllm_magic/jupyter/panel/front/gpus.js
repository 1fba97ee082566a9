// The GPUs: who holds how much memory of each, and how much the start in the form would take.

const HOLDERS = [
  ["mine", "this server"],
  ["server", "other servers here"],
  ["other", "other processes"],
];

function gpuBars() {
  const rows = node("div", { class: "vmp-gpus" });
  const key = node("div", { class: "vmp-key", "aria-hidden": "true" });
  const note = node("div", { class: "vmp-quiet" });
  let known = []; // the last rows that the kernel sent
  const el = node("section", { "aria-label": "GPUs" }, rows, key, note);
  return {
    el,
    update({ gpus, chosen }) {
      const has = gpus.rows.length > 0;
      if (has) known = gpus.rows;
      const shown = has ? gpus.rows : known.map(withoutMemory); // a driver that answers late moves nothing
      show(el, shown.length > 0 || gpus.note !== "");
      show(rows, shown.length > 0);
      show(key, shown.length > 0);
      show(note, shown.length === 0);
      say(note, gpus.note ? `No GPU to show: ${gpus.note}.` : "");
      mark(rows, "title", gpus.note || null);
      const open = chosen === null || chosen.ended !== null; // whether the form is for a start
      fill(rows, shown, () => shown.map(gpuRow));
      fill(key, [open, chosen !== null], () => legend(open, chosen !== null));
    },
  };
}

function withoutMemory(gpu) {
  return { ...gpu, used: null, free: null, parts: [0, 0, 0], claim: null };
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
  const lacks = gpu.claim - (gpu.total - gpu.used);
  bar.append(node("b", { class: lacks > 0 ? "vmp-claim lacks" : "vmp-claim", style: `left:${share(gpu.used)};width:${share(Math.min(gpu.claim, gpu.total - gpu.used))}`, title: `the start would take ${gib(gpu.claim)}` }));
  say(numbers, lacks > 0 ? `start takes ${gib(gpu.claim)}: ${gib(lacks)} too much` : `${gib(gpu.used)} + ${gib(gpu.claim)} of ${gib(gpu.total)}`);
  mark(numbers, "class", `vmp-numbers ${lacks > 0 ? "wrong" : ""}`);
  return row;
}

function legend(open, mine) {
  const shown = HOLDERS.filter(([kind]) => mine || kind !== "mine");
  const keys = [...shown, ["free", "free"], ...(open ? [["vmp-claim", "the start would take"]] : [])];
  return keys.map(([kind, text]) => node("span", {}, node("i", { class: kind }), node("span", { text })));
}
