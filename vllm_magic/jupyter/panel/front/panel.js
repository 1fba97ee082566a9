// The panel: puts the parts together, and gives each part the data from the kernel that it draws.

const EMPTY = {
  servers: [],
  chosen: null,
  gpus: { rows: [], note: "" },
  form: { model: "", flags: "", gpus: "", view: "", text: "", wrong: false, models: [] },
  notice: null,
  spare: "",
  asked: [],
  beside: true,
};
const CLOCK = 1000; // milliseconds between two updates of the times

function render({ model, el }) {
  const view = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  const curves = curveBook();
  let tab = "log";
  let busy = false;
  let starting = {};
  let ahead = 0; // seconds that the kernel's clock is ahead of the browser's

  const send = (ask, more = {}) => model.send({ ask, view, tab, ...more });
  const picture = () => ({ ...EMPTY, ...model.get("picture") });
  const now = () => Date.now() / 1000 + ahead;

  const list = serverList(send);
  const head = header();
  const startForm = form(send, view);
  const notice = node("div", { class: "vmp-notice", role: "alert" });
  const progress = startProgress();
  const bars = gpuBars();
  const charts = tiles();
  const end = ending(send);
  const log = logView();
  const tree = processTree();
  const chat = chatView(send);
  const doctor = doctorView(send);
  const spare = node("span", { class: "vmp-spare", title: "A process that has imported vLLM: the next start takes far less time with it. %vllm spare off ends it." });
  const details = tabs(
    [["log", "Log", log], ["processes", "Processes", tree], ["chat", "Chat", chat], ["doctor", "Doctor", doctor]],
    (name) => {
      tab = name;
      send("here");
    },
    spare,
  );
  const gone = node("div", { class: "vmp-gone", role: "alert", hidden: true });
  const body = node("div", { class: "vmp-body" }, list.el, head.el, startForm.el, notice, progress.el, end.el, bars.el, charts.el, details.el);
  const root = node("div", { class: "vmp", role: "region", "aria-label": "vLLM", onfocusin: keepKeys, onkeydown: passSave }, gone, body);

  function draw() {
    const drawn = picture();
    const name = drawn.chosen ? drawn.chosen.name : "";
    list.update(drawn);
    head.update(drawn, now());
    startForm.update(drawn, busy);
    show(notice, drawn.notice !== null);
    say(notice, drawn.notice ? drawn.notice.text : "");
    mark(notice, "class", `vmp-notice ${drawn.notice ? drawn.notice.kind : ""}`);
    progress.update(drawn, starting, now());
    bars.update(drawn);
    charts.update(drawn, curves.of(name), now());
    end.update(drawn, curves.of(name));
    say(spare, drawn.spare);
    for (const part of [log, tree, chat, doctor]) part.update(drawn);
  }

  const heart = heartbeat({
    here: () => send("here"),
    lost() {
      body.inert = true;
      root.classList.add("vmp-dead");
      startForm.lost();
      say(gone, idleRelease(picture()));
      show(gone, true);
    },
    found() {
      body.inert = false;
      root.classList.remove("vmp-dead");
      show(gone, false);
      send("hello");
    },
  });

  const parts = {
    tick(message) {
      ahead = message.now - Date.now() / 1000;
      busy = message.busy;
      mark(root, "data-busy", busy);
      starting = Object.fromEntries(message.starting.map((one) => [one.name, one]));
      curves.add(message.points);
      heart.beat();
      draw();
    },
    curve(message) {
      curves.replace(message);
      draw();
    },
    log: log.take,
    processes: tree.take,
    chat: chat.take,
    doctor: doctor.take,
    got(message) {
      startForm.got(message.ask);
      draw();
    },
  };
  const hear = (message) => parts[message.kind]?.(message);

  model.on("change:picture", draw);
  model.on("msg:custom", hear);
  el.append(root);
  details.open(0);
  draw();
  send("hello");
  const clock = setInterval(() => head.update(picture(), now()), CLOCK);

  return () => {
    heart.stop();
    clearInterval(clock);
    model.off("change:picture", draw);
    model.off("msg:custom", hear);
    send("bye");
  };
}

/** Keeps the panel's keys from the notebook, where "d", "d" on a button of ours would delete the cell. */
function keepKeys({ target }) {
  target.setAttribute("data-lm-suppress-shortcuts", "true");
}

/** Gives the keys that save to the notebook: dispatches their event again, outside of the panel. */
function passSave(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.key.toLowerCase() !== "s") return;
  event.preventDefault();
  document.body.dispatchEvent(new KeyboardEvent("keydown", event));
}

/** Returns what has become of the servers, as far as this can be known without their kernel. */
function idleRelease({ servers }) {
  const living = servers.filter(({ state }) => !["released", "failed"].includes(state));
  const names = (kept) => living.filter((one) => one.keep === kept).map(({ name }) => name).join(", ");
  const fate = [
    names(false) ? `the servers were released with it: ${names(false)}.` : "",
    names(true) ? `kept for a new kernel, for a while: ${names(true)} (%vllm attach).` : "",
    living.length ? "" : "no server was running.",
  ].filter(Boolean).join(" And ");
  return `The kernel does not answer. If it has ended or was restarted, ${fate} Then %vllm panel opens a new panel.`;
}

export default { render };
