// Model, flags, GPUs, and the one button that follows the state of the server.

const TYPED = 400; // milliseconds without a key after which the words are sent
const DEEDS = {
  none: ["Start", "start"],
  released: ["Start", "start"],
  failed: ["Start", "start"],
  starting: ["Cancel", "stop"],
  ready: ["Stop", "stop"],
  asleep: ["Stop", "stop"],
  stopping: ["Stopping …", ""],
};
const CLICKED = { start: "Starting …", stop: "Stopping …" };

function form(send) {
  let deed = "start";
  let name = "";
  let clicked = null; // what was clicked, until the kernel has it
  let own = null; // what was typed here, until the kernel has it
  let timer = 0;
  const models = node("datalist", { id: `vmp-models-${Math.random().toString(36).slice(2)}` });
  const model = field("ORGANISATION/MODEL or a folder", { list: models.id });
  const flags = field("flags of vllm serve, such as --max-model-len 4096");
  const gpus = field("vLLM chooses");
  const primary = button("Start", press, { class: "vmp-button vmp-primary" });
  const note = node("div", { class: "vmp-note", role: "status", "aria-live": "polite" });
  const queued = node("div", { class: "vmp-note queued", role: "status" });
  const row = node(
    "form",
    { class: "vmp-form", onsubmit: (event) => { event.preventDefault(); if (deed === "start") press(); } },
    labelled("Model", model, "wide"),
    labelled("Flags", flags, "wide"),
    labelled("GPUs", gpus, "narrow"),
    primary,
    models,
  );
  const el = node("section", { "aria-label": "Start and stop" }, row, note, queued);

  function field(placeholder, props = {}) {
    return node("input", { type: "text", placeholder, spellcheck: "false", autocomplete: "off", "data-lm-suppress-shortcuts": "true", oninput: typed, ...props });
  }

  function words() {
    return { model: model.value, flags: flags.value, gpus: gpus.value };
  }

  function typed() {
    own = words();
    clearTimeout(timer);
    timer = setTimeout(() => send("form", { words: words() }), TYPED);
  }

  function press() {
    if (!deed || clicked) return;
    clearTimeout(timer);
    clicked = deed;
    say(primary, CLICKED[deed]);
    primary.disabled = true;
    send(deed, deed === "start" ? { words: words() } : { name });
  }

  function put(input, value, locked) {
    mark(input, "readonly", locked ? "" : null);
    const typing = !locked && (own !== null || document.activeElement === input);
    if (input.value !== value && !typing) input.value = value;
  }

  const same = (one, other) => ["model", "flags", "gpus"].every((key) => one[key].trim() === other[key].trim());

  return {
    el,
    got(ask) {
      if (ask === clicked) clicked = null;
      show(queued, false);
    },
    lost() {
      clicked = null;
      show(queued, false);
    },
    update({ chosen, form: said, asked, beside }, busy) {
      const state = chosen ? chosen.state : "none";
      const locked = chosen !== null && chosen.ended === null;
      const shown = locked ? chosen.words : said;
      if (locked || (own && same(own, said))) own = null;
      name = chosen ? chosen.name : "";
      put(model, shown.model, locked);
      put(flags, shown.flags, locked);
      put(gpus, shown.gpus, locked);
      fill(models, said.models, () => said.models.map((value) => node("option", { value })));
      const [text, next] = asked.includes("start") && !locked ? ["Starting …", ""] : DEEDS[state];
      if (!clicked) {
        deed = next;
        say(primary, text);
        primary.disabled = !next;
        mark(primary, "class", `vmp-button vmp-primary ${next === "stop" ? "ends" : ""}`);
      }
      show(queued, clicked !== null && busy && !beside);
      say(queued, "Queued until the cell ends: this kernel hears clicks only between cells.");
      show(note, !locked && said.text !== "");
      say(note, locked ? "" : said.text);
      mark(note, "class", `vmp-note ${said.wrong ? "wrong" : ""}`);
    },
  };
}
