// The GPUs: who holds how much of each, and what the start in the form would take.

const HOLDERS = [
  ["mine", "this server"],
  ["server", "other servers here"],
  ["other", "other processes"],
];

function gpuBars() {
  const rows = node("div", { class: "vmp-gpus" });
  const key = node("div", { class: "vmp-key", "aria-hidden": "true" });
  const note = node("div", { class: "vmp-quiet" });
  const el = node("section", { "aria-label": "GPUs" }, rows, key, note);
  return {
    el,
    update({ gpus, chosen }) {
      show(el, gpus.rows.length > 0 || gpus.note !== "");
      show(rows, gpus.rows.length > 0);
      show(key, gpus.rows.length > 0);
      show(note, gpus.rows.length === 0);
      say(note, gpus.note ? `No GPU to show: ${gpus.note}.` : "");
      const claims = gpus.rows.some((gpu) => gpu.claim !== null);
      fill(rows, gpus.rows, () => gpus.rows.map(gpuRow));
      fill(key, [claims, chosen !== null], () => legend(claims, chosen !== null));
    },
  };
}

function gpuRow(gpu) {
  const known = gpu.total !== null && gpu.used !== null;
  const share = (bytes) => `${Math.min(100, (100 * bytes) / (gpu.total || 1)).toFixed(2)}%`;
  const parts = gpu.parts.map((bytes, index) => [bytes, ...HOLDERS[index]]).filter(([bytes]) => bytes > 0);
  const said = parts.map(([bytes, , who]) => `${who} ${gib(bytes)}`).join(", ") || "nobody holds any of it";
  const bar = node(
    "div",
    { class: "vmp-bar", role: "img", "aria-label": `GPU ${gpu.index}: ${gib(gpu.used)} of ${gib(gpu.total)} in use: ${said}` },
    ...parts.map(([bytes, kind, who]) => node("i", { class: kind, style: `width:${share(bytes)}`, title: `${who}: ${gib(bytes)}` })),
  );
  const name = node("span", { class: "vmp-gpu-name", title: gpu.name, text: `GPU ${gpu.index} · ${gpu.name}` });
  const numbers = node("span", { class: "vmp-numbers", text: known ? `${gib(gpu.used)} of ${gib(gpu.total)}` : "memory not told" });
  const row = node("div", { class: "vmp-gpu" }, name, bar, numbers);
  if (gpu.claim === null || !known) return row;
  const lacks = gpu.claim - (gpu.total - gpu.used);
  bar.append(node("b", { class: lacks > 0 ? "vmp-claim lacks" : "vmp-claim", style: `left:${share(gpu.used)};width:${share(Math.min(gpu.claim, gpu.total - gpu.used))}`, title: `the start would take ${gib(gpu.claim)}` }));
  say(numbers, lacks > 0 ? `start takes ${gib(gpu.claim)}: ${gib(lacks)} too few` : `${gib(gpu.used)} + ${gib(gpu.claim)} of ${gib(gpu.total)}`);
  mark(numbers, "class", `vmp-numbers ${lacks > 0 ? "wrong" : ""}`);
  return row;
}

function legend(claims, mine) {
  const shown = HOLDERS.filter(([kind]) => mine || kind !== "mine");
  const keys = [...shown, ["free", "free"], ...(claims ? [["vmp-claim", "the start would take"]] : [])];
  return keys.map(([kind, text]) => node("span", {}, node("i", { class: kind }), node("span", { text })));
}
