// Model, flags, GPUs, and the one button that follows the state of the server.

const TYPED = 400; // milliseconds without a key after which the words are sent
const DEEDS = {
  none: ["Start", "start"],
  released: ["Start", "start"],
  failed: ["Start", "start"],
  starting: ["Cancel", "stop"],
  ready: ["Stop", "stop"],
  asleep: ["Stop", "stop"],
  unreachable: ["Stop", "stop"],
  stopping: ["Stopping …", ""],
};
const CLICKED = { start: "Starting …", stop: "Stopping …" };

function form(send, view) {
  let deed = "start";
  let name = "";
  let clicked = null; // what was clicked, until the kernel has it
  let typing = false; // here, and the kernel does not have it yet
  let timer = 0;
  const models = node("datalist", { id: `vmp-models-${Math.random().toString(36).slice(2)}` });
  const model = field("ORGANISATION/MODEL or a folder", { list: models.id });
  const flags = field("of vllm serve: --max-model-len 4096");
  const gpus = field("vLLM chooses");
  const primary = button("Start", press, { class: "vmp-button vmp-primary" });
  const note = node("div", { class: "vmp-note", role: "status", "aria-live": "polite" });
  const queued = node("div", { class: "vmp-note queued", role: "status" });
  const row = node(
    "form",
    { class: "vmp-form", onsubmit: (event) => event.preventDefault(), onkeydown: enter },
    labelled("Model", model, "wide"),
    labelled("Flags", flags, "wide"),
    labelled("GPUs", gpus, "narrow"),
    primary,
    models,
  );
  const el = node("section", { "aria-label": "Start and stop" }, row, note, queued);

  function field(placeholder, props = {}) {
    return node("input", { type: "text", placeholder, spellcheck: "false", autocomplete: "off", oninput: typed, ...props });
  }

  function words() {
    return { model: model.value, flags: flags.value, gpus: gpus.value };
  }

  function typed() {
    typing = true;
    clearTimeout(timer);
    timer = setTimeout(() => send("form", { words: words() }), TYPED);
  }

  function enter({ target, key, shiftKey, isComposing }) {
    if (target.localName === "input" && key === "Enter" && !shiftKey && !isComposing && deed === "start") press();
  }

  function press(event) {
    if (!deed || clicked || event?.detail > 1) return; // the second click of two would be one on "Cancel", or "Start"
    clearTimeout(timer);
    clicked = deed;
    say(primary, CLICKED[deed]);
    mark(primary, "aria-disabled", "true"); // not `disabled`, which would take the keyboard's focus from it
    send(deed, deed === "start" ? { words: words() } : { name });
  }

  /** What was typed here stays as it was typed: the kernel gives it back without its keys. */
  function put(input, value, { locked, own }) {
    mark(input, "readonly", locked ? "" : null);
    if (input.value !== value && (locked || !(own || typing || document.activeElement === input))) input.value = value;
  }

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
      const how = { locked, own: said.view === view };
      if (locked || how.own) typing = false;
      name = chosen ? chosen.name : "";
      put(model, shown.model, how);
      put(flags, shown.flags, how);
      put(gpus, shown.gpus, how);
      fill(models, said.models, () => said.models.map((value) => node("option", { value })));
      const [text, next] = asked.includes("start") && !locked ? ["Starting …", ""] : DEEDS[state];
      if (!clicked) {
        deed = next;
        say(primary, text);
        mark(primary, "aria-disabled", next ? null : "true");
        mark(primary, "class", `vmp-button vmp-primary ${next === "stop" ? "ends" : ""}`);
      }
      show(queued, clicked !== null && busy && !beside);
      say(queued, "Queued until the cell ends: this kernel hears clicks only between cells.");
      show(note, !locked); // its line is there before there is something to say: nothing below jumps
      say(note, locked ? "" : said.text);
      mark(note, "class", `vmp-note ${said.wrong ? "wrong" : ""}`);
    },
  };
}
