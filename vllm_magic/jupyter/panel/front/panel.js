// The panel: joins the parts, and passes the data from the kernel to the parts that draw them.

const EMPTY = {
  servers: [],
  chosen: null,
  gpus: { rows: [], note: "" },
  form: { model: "", flags: "", gpus: "", view: "", text: "", wrong: false, models: [] },
  notice: null,
  spare: "",
  under_way: [],
  concurrent: true,
};
const CLOCK_INTERVAL = 1000; // milliseconds between two updates of the times

function render({ model, el }) {
  const view = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  const curves = curveStore();
  let tab = "log";
  let busy = false;
  let starting = {};
  let ahead = 0; // seconds by which the clock of the kernel is ahead of the browser's clock

  const send = (kind, more = {}) => model.send({ kind, view, tab, ...more });
  const viewState = () => ({ ...EMPTY, ...model.get("view_state") });
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
      send("heartbeat");
    },
    spare,
  );
  const gone = node("div", { class: "vmp-gone", role: "alert", hidden: true });
  const body = node("div", { class: "vmp-body" }, list.el, head.el, startForm.el, notice, progress.el, end.el, bars.el, charts.el, details.el);
  const root = node("div", { class: "vmp", role: "region", "aria-label": "vLLM", onfocusin: keepKeys, onkeydown: passSave }, gone, body);

  function draw() {
    const state = viewState();
    const name = state.chosen ? state.chosen.name : "";
    list.update(state);
    head.update(state, now());
    startForm.update(state, busy);
    setVisible(notice, state.notice !== null);
    setText(notice, state.notice ? state.notice.text : "");
    setAttribute(notice, "class", `vmp-notice ${state.notice ? state.notice.kind : ""}`);
    progress.update(state, starting, now());
    bars.update(state);
    charts.update(state, curves.of(name), now());
    end.update(state, curves.of(name));
    setText(spare, state.spare);
    for (const part of [log, tree, chat, doctor]) part.update(state);
  }

  const heart = heartbeat({
    send: () => send("heartbeat"),
    lost() {
      body.inert = true;
      root.classList.add("vmp-lost");
      startForm.lost();
      setText(gone, lostKernelText(viewState()));
      setVisible(gone, true);
    },
    found() {
      body.inert = false;
      root.classList.remove("vmp-lost");
      setVisible(gone, false);
      send("hello");
    },
  });

  const receivers = {
    tick(message) {
      ahead = message.now - Date.now() / 1000;
      busy = message.busy;
      setAttribute(root, "data-busy", busy);
      starting = Object.fromEntries(message.starting.map((progress) => [progress.name, progress]));
      curves.add(message.points);
      heart.received();
      draw();
    },
    curve(message) {
      curves.replace(message);
      draw();
    },
    log: log.receive,
    processes: tree.receive,
    chat: chat.receive,
    doctor: doctor.receive,
    received(message) {
      startForm.received(message.request);
      draw();
    },
  };
  const receive = (message) => receivers[message.kind]?.(message);

  model.on("change:view_state", draw);
  model.on("msg:custom", receive);
  el.append(root);
  details.open(0);
  draw();
  send("hello");
  const clock = setInterval(() => head.update(viewState(), now()), CLOCK_INTERVAL);

  return () => {
    heart.stop();
    clearInterval(clock);
    model.off("change:view_state", draw);
    model.off("msg:custom", receive);
    send("bye");
  };
}

/** Keeps keys in the panel from the notebook, where "d", "d" would delete the cell. */
function keepKeys({ target }) {
  target.setAttribute("data-lm-suppress-shortcuts", "true");
}

/** Passes Ctrl+S and Cmd+S to the notebook, which then saves: dispatches the event again, outside of the panel. */
function passSave(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.key.toLowerCase() !== "s") return;
  event.preventDefault();
  document.body.dispatchEvent(new KeyboardEvent("keydown", event));
}

/** Returns what happens to the servers if their kernel has ended, as a text for the user. */
function lostKernelText({ servers }) {
  const living = servers.filter(({ state }) => !["released", "failed"].includes(state));
  const names = (kept) => living.filter((server) => server.keep === kept).map(({ name }) => name).join(", ");
  const effects = [
    names(false) ? `these servers were released: ${names(false)}.` : "",
    names(true) ? `these servers are kept for a new kernel for some time: ${names(true)} (%vllm attach).` : "",
    living.length ? "" : "no server was running.",
  ].filter(Boolean).join(" And ");
  return `The kernel does not answer. If it has ended or was restarted, ${effects} Then run the cell of the panel again.`;
}

export default { render };
