// Three tiles with a chart each: VRAM, tokens a second, requests.

const WINDOW = 300; // seconds that a chart shows
const KEPT = 600; // points that a curve keeps
const [AT, USED, HELD, RUNNING, WAITING, IN, OUT] = [0, 1, 2, 3, 4, 5, 6]; // the indices of the values of a point

/** Makes a store of the curves of the servers, which grow with each tick. */
function curveStore() {
  const curves = new Map();
  return {
    of: (name) => curves.get(name) || [],
    replace({ name, points }) {
      curves.set(name, points);
    },
    add(newPoints) {
      for (const [name, point] of Object.entries(newPoints)) {
        const points = curves.get(name);
        if (!points || (points.length && points[points.length - 1][AT] >= point[AT])) continue;
        points.push(point);
        if (points.length > KEPT) points.shift();
      }
    },
  };
}

function tiles() {
  const vram = tile("VRAM", chart("VRAM in use", gib, [{ kind: "used", area: true }, { kind: "mine", area: true }]));
  const speed = tile("tokens/s", chart("Tokens a second", numberText, [{ kind: "in" }, { kind: "out" }]), [["in", "in"], ["out", "out"]]);
  const requests = tile("requests", chart("Requests", numberText, [{ kind: "running" }, { kind: "waiting" }]), [["running", "running"], ["waiting", "waiting"]]);
  const el = node("section", { class: "vmp-tiles", "aria-label": "What it does" }, vram.el, speed.el, requests.el);
  return {
    el,
    update({ chosen }, points, now) {
      setVisible(el, chosen !== null && chosen.ended === null && chosen.state !== "starting");
      if (el.hidden) return;
      const last = points.length ? points[points.length - 1] : [];
      const from = Math.max(now - WINDOW, points.length ? points[0][AT] : now - 1);
      const columns = (...which) => points.map((point) => [point[AT], ...which.map((index) => point[index])]);
      vram.draw(last[USED] === null || last[USED] === undefined ? "not known" : gib(last[USED]), columns(USED, HELD), from, now);
      speed.draw(`${numberText(last[IN])} in, ${numberText(last[OUT])} out`, columns(IN, OUT), from, now);
      requests.draw(`${numberText(last[RUNNING])} running, ${numberText(last[WAITING])} waiting`, columns(RUNNING, WAITING), from, now);
    },
  };
}

function tile(title, tileChart, keys = []) {
  const value = node("strong", { class: "vmp-value" });
  const key = keys.map(([kind, text]) => node("span", {}, node("i", { class: `vmp-stroke ${kind}` }), node("span", { text })));
  const el = node("div", { class: "vmp-tile" }, node("div", { class: "vmp-between vmp-quiet" }, node("span", { text: title }), node("span", { class: "vmp-legend" }, ...key)), value, tileChart.el);
  return {
    el,
    draw(text, points, from, until) {
      setText(value, text);
      tileChart.draw(points, from, until);
    },
  };
}
