// Whether the kernel lives. It says so once a second or so; a panel without a kernel must not look as if it had one.

const SILENCE = 4000; // milliseconds
const GLANCE = 500;
const HERE = 5000; // milliseconds between two signs of life of this view
const SELDOM = 60000; // the most between two, while nobody answers

/** Watches; calls `here` to give a sign of life, `lost` when the kernel is not heard any more, `found` when it is again. */
function heartbeat({ here, lost, found }) {
  let heard = Date.now();
  let told = Date.now() - HERE + 1000; // soon, since by then the front end has a way to the kernel beside its cells
  let pause = HERE;
  let silent = false;

  function look() {
    const now = Date.now();
    if (!silent && now - heard > SILENCE) {
      silent = true;
      lost();
    }
    if (now - told < pause) return;
    told = now;
    pause = silent ? Math.min(2 * pause, SELDOM) : HERE; // a kernel that was restarted logs each message that it has no panel for
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
