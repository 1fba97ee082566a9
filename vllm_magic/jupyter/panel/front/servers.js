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
  const chips = new Map(); // they stay, and with them the keyboard's focus
  const el = node("nav", { class: "vmp-servers", "aria-label": "Servers" });
  return {
    el,
    update({ servers, chosen }) {
      show(el, servers.length > 0);
      const wanted = [...servers, { name: "", state: "" }];
      for (const [name, { el: old }] of chips) {
        if (wanted.some((one) => one.name === name)) continue;
        old.remove();
        chips.delete(name);
      }
      wanted.forEach(({ name, state }, at) => {
        if (!chips.has(name)) chips.set(name, chip(name || "+ New server", () => send("choose", { name })));
        const one = chips.get(name);
        one.update(state, name === (chosen ? chosen.name : ""));
        if (el.children[at] !== one.el) el.insertBefore(one.el, el.children[at] || null);
      });
    },
  };
}

function chip(text, onclick) {
  const dot = node("i", { "aria-hidden": "true" });
  const el = button("", onclick, { class: "vmp-chip" });
  el.append(dot, node("span", { text }));
  return {
    el,
    update(state, current) {
      show(dot, state !== "");
      mark(dot, "class", `vmp-dot ${state}`);
      mark(el, "aria-pressed", String(current));
      mark(el, "aria-label", state ? `${text}, ${STATES[state]}` : text);
    },
  };
}

function header() {
  const pill = node("span", { class: "vmp-pill", role: "status", "aria-live": "polite" });
  const model = node("strong", { class: "vmp-model" });
  const url = node("code", { class: "vmp-url" });
  const copy = copier(() => url.textContent);
  const address = node("span", { class: "vmp-address" }, url, copy);
  const age = node("span", { class: "vmp-quiet" });
  const exposed = node("span", { class: "vmp-exposed", text: "Other machines can reach it. Its key guards /v1 only." });
  const el = node("header", { class: "vmp-header" }, pill, model, address, age, exposed);
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
      show(exposed, living && chosen.exposed);
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
