// The list of servers at the top, and the header of the server that is shown.

function serverList(send) {
  const items = new Map(); // by name; an element is kept while its server is listed, so that the keyboard focus stays
  const el = node("nav", { class: "vmp-servers", "aria-label": "Servers" });
  return {
    el,
    update({ servers, chosen }) {
      setVisible(el, servers.length > 0);
      const wanted = [...servers, { name: "", state: "" }];
      for (const [name, { el: old }] of items) {
        if (wanted.some((server) => server.name === name)) continue;
        if (old.contains(document.activeElement)) old.nextElementSibling.firstChild.focus(); // the last item is never removed
        old.remove();
        items.delete(name);
      }
      wanted.forEach(({ name, state, removable }, index) => {
        if (!items.has(name)) items.set(name, serverItem(name, send));
        const item = items.get(name);
        item.update(state, Boolean(removable), name === (chosen ? chosen.name : ""));
        if (el.children[index] !== item.el) el.insertBefore(item.el, el.children[index] || null);
      });
    },
  };
}

/** Makes the item of a server: a button that chooses it, and a button that removes it after its end; "" is a new server. */
function serverItem(name, send) {
  const text = name || "+ New server";
  const dot = node("i", { "aria-hidden": "true" });
  const endState = node("span", { class: "vmp-end-state" });
  const choose = button("", () => send("choose", { name }), { class: "vmp-chip" });
  choose.append(dot, node("span", { text }), endState);
  const title = `Remove ${text} from this list`;
  const remove = button("×", () => send("remove", { name }), { class: "vmp-remove", title, "aria-label": title });
  const el = node("span", { class: "vmp-server" }, choose, remove);
  return {
    el,
    update(state, removable, current) {
      setVisible(dot, state !== "");
      setAttribute(dot, "class", `vmp-dot ${state}`);
      setVisible(endState, removable);
      setText(endState, removable ? state : "");
      setVisible(remove, removable);
      setAttribute(el, "class", removable ? "vmp-server over" : "vmp-server");
      setAttribute(choose, "aria-pressed", String(current));
      setAttribute(choose, "aria-label", state ? `${text}, ${state}` : text);
    },
  };
}

function header() {
  const pill = node("span", { class: "vmp-pill", role: "status", "aria-live": "polite" });
  const model = node("strong", { class: "vmp-model" });
  const url = node("code", { class: "vmp-url" });
  const copy = copyButton(() => url.textContent);
  const address = node("span", { class: "vmp-address" }, url, copy);
  const age = node("span", { class: "vmp-quiet" });
  const exposed = node("span", { class: "vmp-exposed", text: "Other machines can reach it. Its key protects /v1 only." });
  const terms = node("span", { class: "vmp-terms" });
  const el = node("header", { class: "vmp-header" }, pill, model, address, age, terms, exposed);
  return {
    el,
    update({ chosen }, now) {
      const state = chosen ? chosen.state : "none";
      setText(pill, chosen ? state : "no server");
      setAttribute(pill, "class", `vmp-pill ${state}`);
      setText(model, chosen ? chosen.model : "vLLM");
      setAttribute(model, "title", chosen ? chosen.model : null);
      const living = chosen !== null && chosen.ended === null;
      setVisible(address, living);
      setVisible(exposed, living && chosen.exposed);
      const labels = living ? chosen.terms : [];
      setVisible(terms, labels.length > 0);
      updateChildren(terms, labels, () => labels.map((text) => node("span", { class: "vmp-term", text })));
      setText(url, living ? chosen.url : "");
      setText(age, chosen ? times(chosen, now) : "Choose a model, and start it.");
    },
  };
}

function times(chosen, now) {
  if (chosen.ended !== null) return chosen.idle_release || `after ${durationText(chosen.ended - chosen.began)}`;
  const pid = chosen.pid ? ` · pid ${chosen.pid}` : "";
  return chosen.began ? `${durationText(now - chosen.began)}${pid}` : "";
}
