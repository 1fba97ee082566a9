// The fields for model, flags and GPUs, and the one button, which follows the state of the server.

const TYPED = 400; // milliseconds after the last key until the values are sent
const ACTIONS = {
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
  let action = "start";
  let name = "";
  let clicked = null; // the action that was clicked, until the kernel has received it
  let typing = false; // whether this view has values that the kernel has not received yet
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

  function fields() {
    return { model: model.value, flags: flags.value, gpus: gpus.value };
  }

  function typed() {
    typing = true;
    clearTimeout(timer);
    timer = setTimeout(() => send("form", { fields: fields() }), TYPED);
  }

  function enter({ target, key, shiftKey, isComposing }) {
    if (target.localName === "input" && key === "Enter" && !shiftKey && !isComposing && action === "start") press();
  }

  function press(event) {
    if (!action || clicked || event?.detail > 1) return; // the second click of a double click would hit "Cancel", or "Start"
    clearTimeout(timer);
    clicked = action;
    say(primary, CLICKED[action]);
    mark(primary, "aria-disabled", "true"); // not `disabled`, which would take the keyboard focus from the button
    send(action, action === "start" ? { fields: fields() } : { name });
  }

  /** Sets the value of a field. A value that was typed in this view stays, since the kernel returns it without its keys. */
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
    update({ chosen, form: entered, asked, beside }, busy) {
      const state = chosen ? chosen.state : "none";
      const locked = chosen !== null && chosen.ended === null;
      const shown = locked ? chosen.fields : entered;
      const how = { locked, own: entered.view === view };
      if (locked || how.own) typing = false;
      name = chosen ? chosen.name : "";
      put(model, shown.model, how);
      put(flags, shown.flags, how);
      put(gpus, shown.gpus, how);
      fill(models, entered.models, () => entered.models.map((value) => node("option", { value })));
      const [text, next] = asked.includes("start") && !locked ? ["Starting …", ""] : ACTIONS[state];
      if (!clicked) {
        action = next;
        say(primary, text);
        mark(primary, "aria-disabled", next ? null : "true");
        mark(primary, "class", `vmp-button vmp-primary ${next === "stop" ? "ends" : ""}`);
      }
      show(queued, clicked !== null && busy && !beside);
      say(queued, "Queued until the cell ends: this kernel hears clicks only between cells.");
      show(note, !locked); // an empty note takes its line too, so that nothing below moves when text comes
      say(note, locked ? "" : entered.text);
      mark(note, "class", `vmp-note ${entered.wrong ? "wrong" : ""}`);
    },
  };
}
