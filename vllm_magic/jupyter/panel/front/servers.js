// The list of servers on top, and the header of the one that is shown.

const STATES = {
  starting: "starting",
  ready: "ready",
  asleep: "asleep",
  stopping: "stopping",
  released: "released",
  failed: "failed",
};

function serverList(send) {
  const el = node("nav", { class: "vmp-servers", "aria-label": "Servers" });
  return {
    el,
    update({ servers, chosen }) {
      show(el, servers.length > 0);
      const name = chosen ? chosen.name : "";
      fill(el, [servers, name], () => [
        ...servers.map((one) => chip(one.name, one.state, one.name === name, () => send("choose", { name: one.name }))),
        chip("+ New server", "", name === "", () => send("choose", { name: "" })),
      ]);
    },
  };
}

function chip(text, state, current, onclick) {
  const dot = state ? [node("i", { class: `vmp-dot ${state}`, "aria-hidden": "true" })] : [];
  const said = state ? `${text}, ${STATES[state]}` : text;
  const el = button("", onclick, { class: "vmp-chip", "aria-pressed": String(current), "aria-label": said });
  el.append(...dot, node("span", { text }));
  return el;
}

function header() {
  const pill = node("span", { class: "vmp-pill", role: "status", "aria-live": "polite" });
  const model = node("strong", { class: "vmp-model" });
  const url = node("code", { class: "vmp-url" });
  const copy = copier(() => url.textContent);
  const address = node("span", { class: "vmp-address" }, url, copy);
  const age = node("span", { class: "vmp-quiet" });
  const el = node("header", { class: "vmp-header" }, pill, model, address, age);
  return {
    el,
    update({ chosen }, now) {
      const state = chosen ? chosen.state : "none";
      say(pill, chosen ? STATES[state] : "no server");
      mark(pill, "class", `vmp-pill ${state}`);
      say(model, chosen ? chosen.model : "vLLM");
      mark(model, "title", chosen ? chosen.model : null);
      const living = chosen !== null && chosen.ended === null;
      show(address, living);
      say(url, living ? chosen.url : "");
      say(age, chosen ? times(chosen, now) : "Choose a model, and start it.");
    },
  };
}

function times(chosen, now) {
  if (chosen.ended !== null) return chosen.farewell || `after ${lasting(chosen.ended - chosen.began)}`;
  const pid = chosen.pid ? ` · pid ${chosen.pid}` : "";
  return chosen.began ? `${lasting(now - chosen.began)}${pid}` : "";
}
