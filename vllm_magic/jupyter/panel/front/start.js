// The progress of a start; once the server is ready, how long each stage took, folded.

function startProgress() {
  const bar = node("div", { class: "vmp-progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Start" }, node("i"));
  const stage = node("strong");
  const left = node("span", { class: "vmp-quiet" });
  const steps = node("ol", { class: "vmp-steps" });
  const current = node("div", {}, node("div", { class: "vmp-between" }, stage, left), bar, steps);
  const summary = node("summary");
  const past = node("ol", { class: "vmp-steps" });
  const done = node("details", { class: "vmp-fold" }, summary, past);
  const el = node("section", { "aria-label": "Start" }, current, done);
  return {
    el,
    update({ chosen }, starting, now) {
      const runs = chosen !== null && chosen.state === "starting";
      const ready = chosen !== null && chosen.ready_after !== null && chosen.ended === null;
      setVisible(el, runs || ready);
      setVisible(current, runs);
      setVisible(done, ready);
      if (runs) {
        const progress = starting[chosen.name] || { stage: "starting", share: 0, left: "", late: false };
        setText(stage, progress.stage);
        setText(left, [durationText(now - chosen.began), progress.left].filter(Boolean).join(", "));
        setAttribute(stage, "class", progress.late ? "vmp-late" : "");
        setAttribute(bar, "aria-valuenow", Math.round(100 * progress.share));
        setAttribute(bar, "aria-valuetext", progress.stage);
        bar.firstChild.style.width = `${100 * progress.share}%`;
        updateChildren(steps, chosen.stages, () => stages(chosen.stages));
      }
      if (ready) {
        setText(summary, `Ready after ${chosen.ready_after.toFixed(1)} s${chosen.warm ? ", from a spare" : ""}`);
        updateChildren(past, chosen.stages, () => stages(chosen.stages));
      }
    },
  };
}

function stages(finished) {
  return finished.map(([name, seconds]) => node("li", {}, node("span", { text: `✓ ${name} ` }), node("span", { class: "vmp-quiet", text: `${seconds.toFixed(1)} s` })));
}
