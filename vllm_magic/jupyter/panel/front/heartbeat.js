// Whether the kernel lives. It says so once a second or so; a panel without a kernel must not look as if it had one.

const SILENCE = 4000; // milliseconds
const GLANCE = 500;
const HERE = 5000; // milliseconds between two signs of life of this view

/**
 * Watches; calls `lost(certain)` when the kernel is not heard any more, and `found()` when it is again.
 * @param el an element of the view: the front end marks the view when it knows that the kernel has gone
 */
function heartbeat(el, { here, lost, found }) {
  let heard = Date.now();
  let told = Date.now() - HERE + 1000; // soon, since by then the front end has a way to the kernel beside its cells
  let state = "found";

  function look() {
    const now = Date.now();
    const cut = el.closest(".jupyter-widgets-disconnected") !== null;
    const next = cut ? "cut" : now - heard > SILENCE ? "silent" : "found";
    if (next !== state) {
      state = next;
      if (next === "found") found();
      else lost(cut);
    }
    if (now - told > HERE && !cut) {
      told = now;
      here();
    }
  }

  const timer = setInterval(look, GLANCE);
  return {
    beat() {
      heard = Date.now();
      if (state === "silent") look();
    },
    stop: () => clearInterval(timer),
  };
}
