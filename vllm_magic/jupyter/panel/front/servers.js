// The list of servers at the top, and the header of the server that is shown.

const STATES = {
  starting: "starting",
  ready: "ready",
  asleep: "asleep",
  unreachable: "unreachable",
  stopping: "stopping",
  released: "released",
  failed: "failed",
};

function serverList(send) {
  const chips = new Map(); // they are kept, so that the keyboard focus stays
  const el = node("nav", { class: "vmp-servers", "aria-label": "Servers" });
  return {
    el,
    update({ servers, chosen }) {
      show(el, servers.length > 0);
      const wanted = [...servers, { name: "", state: "" }];
      for (const [name, { el: old }] of chips) {
        if (wanted.some((one) => one.name === name)) continue;
        if (old.contains(document.activeElement)) old.nextElementSibling.firstChild.focus(); // the last chip always stays
        old.remove();
        chips.delete(name);
      }
      wanted.forEach(({ name, state, may_go: over }, at) => {
        if (!chips.has(name)) chips.set(name, chip(name, send));
        const one = chips.get(name);
        one.update(state, over, name === (chosen ? chosen.name : ""));
        if (el.children[at] !== one.el) el.insertBefore(one.el, el.children[at] || null);
      });
    },
  };
}

/** Makes a button that chooses a server, and one that removes it once it has ended; "" is the form of a new server. */
function chip(name, send) {
  const text = name || "+ New server";
  const dot = node("i", { "aria-hidden": "true" });
  const fate = node("span", { class: "vmp-fate" });
  const choose = button("", () => send("choose", { name }), { class: "vmp-chip" });
  choose.append(dot, node("span", { text }), fate);
  const title = `Take ${text} from this list`;
  const clear = button("×", () => send("clear", { name }), { class: "vmp-clear", title, "aria-label": title });
  const el = node("span", { class: "vmp-one" }, choose, clear);
  return {
    el,
    update(state, over, current) {
      show(dot, state !== "");
      mark(dot, "class", `vmp-dot ${state}`);
      show(fate, Boolean(over));
      say(fate, over ? STATES[state] : "");
      show(clear, Boolean(over));
      mark(el, "class", over ? "vmp-one over" : "vmp-one");
      mark(choose, "aria-pressed", String(current));
      mark(choose, "aria-label", state ? `${text}, ${STATES[state]}` : text);
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
  const terms = node("span", { class: "vmp-terms" });
  const el = node("header", { class: "vmp-header" }, pill, model, address, age, terms, exposed);
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
      const labels = living ? chosen.terms : [];
      show(terms, labels.length > 0);
      fill(terms, labels, () => labels.map((text) => node("span", { class: "vmp-term", text })));
      say(url, living ? chosen.url : "");
      say(age, chosen ? times(chosen, now) : "Choose a model, and start it.");
    },
  };
}

function times(chosen, now) {
  if (chosen.ended !== null) return chosen.idle_release || `after ${lasting(chosen.ended - chosen.began)}`;
  const pid = chosen.pid ? ` · pid ${chosen.pid}` : "";
  return chosen.began ? `${lasting(now - chosen.began)}${pid}` : "";
}
