// The fields for model, flags and GPUs, and one button, whose action depends on the state of the server.

const SEND_DELAY = 400; // milliseconds from the last key to the sending of the values
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
  let clicked = null; // the clicked action, until the kernel has received it
  let typing = false; // whether this view has values that the kernel has not returned yet
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
    timer = setTimeout(() => send("form", { fields: fields() }), SEND_DELAY);
  }

  function enter({ target, key, shiftKey, isComposing }) {
    if (target.localName === "input" && key === "Enter" && !shiftKey && !isComposing && action === "start") press();
  }

  function press(event) {
    if (!action || clicked || event?.detail > 1) return; // the second click of a double click would press "Cancel" or "Start"
    clearTimeout(timer);
    clicked = action;
    setText(primary, CLICKED[action]);
    setAttribute(primary, "aria-disabled", "true"); // not `disabled`, which would take the keyboard focus from the button
    send(action, action === "start" ? { fields: fields() } : { name });
  }

  /** Sets the value of a field. A value that was typed in this view stays: the kernel returns it with its keys masked. */
  function setField(input, value, { locked, own }) {
    setAttribute(input, "readonly", locked ? "" : null);
    if (input.value !== value && (locked || !(own || typing || document.activeElement === input))) input.value = value;
  }

  return {
    el,
    received(request) {
      if (request === clicked) clicked = null;
      setVisible(queued, false);
    },
    lost() {
      clicked = null;
      setVisible(queued, false);
    },
    update({ chosen, form: entered, under_way, concurrent }, busy) {
      const state = chosen ? chosen.state : "none";
      const locked = chosen !== null && chosen.ended === null;
      const shown = locked ? chosen.fields : entered;
      const own = entered.view === view; // whether the values were typed in this view
      if (locked || own) typing = false;
      name = chosen ? chosen.name : "";
      setField(model, shown.model, { locked, own });
      setField(flags, shown.flags, { locked, own });
      setField(gpus, shown.gpus, { locked, own });
      updateChildren(models, entered.models, () => entered.models.map((value) => node("option", { value })));
      const [text, next] = under_way.includes("start") && !locked ? ["Starting …", ""] : ACTIONS[state];
      if (!clicked) {
        action = next;
        setText(primary, text);
        setAttribute(primary, "aria-disabled", next ? null : "true");
        setAttribute(primary, "class", `vmp-button vmp-primary ${next === "stop" ? "ends" : ""}`);
      }
      setVisible(queued, clicked !== null && busy && !concurrent);
      setText(queued, "Queued until the cell ends: this kernel receives clicks only between cells.");
      setVisible(note, !locked); // an empty note keeps its line, so that the parts below do not move when it gets a text
      setText(note, locked ? "" : entered.text);
      setAttribute(note, "class", `vmp-note ${entered.wrong ? "wrong" : ""}`);
    },
  };
}
