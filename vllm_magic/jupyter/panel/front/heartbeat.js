// Tells whether the kernel lives. The kernel sends a message about once a second; without it, the panel must not look alive.

const SILENCE = 4000; // milliseconds without a message after which the kernel counts as lost
const GLANCE = 500; // milliseconds between two checks
const HERE = 5000; // milliseconds between two messages of this view to the kernel
const SELDOM = 60000; // milliseconds between two messages at most, while the kernel does not answer

/** Calls `here` to send a message of this view, `lost` when the kernel is silent, and `found` when it sends again. */
function heartbeat({ here, lost, found }) {
  let heard = Date.now();
  let lastSent = Date.now() - HERE + 1000; // first after 1 s: by then the view has its subshell
  let pause = HERE;
  let silent = false;

  function look() {
    const now = Date.now();
    if (!silent && now - heard > SILENCE) {
      silent = true;
      lost();
    }
    if (now - lastSent < pause) return;
    lastSent = now;
    pause = silent ? Math.min(2 * pause, SELDOM) : HERE; // a restarted kernel logs each of these messages
    here();
  }

  const timer = setInterval(look, GLANCE);
  return {
    beat() {
      heard = Date.now();
      pause = HERE;
      if (!silent) return;
      silent = false;
      found();
    },
    stop: () => clearInterval(timer),
  };
}
