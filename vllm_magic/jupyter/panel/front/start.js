// The progress of a start; once the server is ready, how long each stage took, folded.

function startProgress() {
  const bar = node("div", { class: "vmp-progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Start" }, node("i"));
  const stage = node("strong");
  const left = node("span", { class: "vmp-quiet" });
  const steps = node("ol", { class: "vmp-steps" });
  const going = node("div", {}, node("div", { class: "vmp-between" }, stage, left), bar, steps);
  const summary = node("summary");
  const past = node("ol", { class: "vmp-steps" });
  const done = node("details", { class: "vmp-fold" }, summary, past);
  const el = node("section", { "aria-label": "Start" }, going, done);
  return {
    el,
    update({ chosen }, starting, now) {
      const runs = chosen !== null && chosen.state === "starting";
      const ready = chosen !== null && chosen.ready_after !== null && chosen.ended === null;
      show(el, runs || ready);
      show(going, runs);
      show(done, ready);
      if (runs) {
        const at = starting[chosen.name] || { stage: "starting", share: 0, left: null, late: false };
        say(stage, at.stage);
        say(left, at.left === null ? lasting(now - chosen.began) : `${lasting(now - chosen.began)}, about ${lasting(Math.max(1, at.left))} left`);
        mark(stage, "class", at.late ? "vmp-late" : "");
        mark(bar, "aria-valuenow", Math.round(100 * at.share));
        mark(bar, "aria-valuetext", at.stage);
        bar.firstChild.style.width = `${100 * at.share}%`;
        fill(steps, chosen.stages, () => stages(chosen.stages));
      }
      if (ready) {
        say(summary, `Ready after ${chosen.ready_after.toFixed(1)} s${chosen.warm ? ", from a spare" : ""}`);
        fill(past, chosen.stages, () => stages(chosen.stages));
      }
    },
  };
}

function stages(several) {
  return several.map(([name, seconds]) => node("li", {}, node("span", { text: `✓ ${name} ` }), node("span", { class: "vmp-quiet", text: `${seconds.toFixed(1)} s` })));
}
