// Whether the kernel lives. It sends a message about once a second; without messages, the panel must not look alive.

const SILENCE = 4000; // milliseconds without a message after which the kernel counts as lost
const CHECK_INTERVAL = 500; // milliseconds between two checks
const HEARTBEAT_INTERVAL = 5000; // milliseconds between two heartbeats of this view
const LONGEST_INTERVAL = 60000; // milliseconds between two heartbeats, at most, while the kernel does not answer

/** Calls `send` for each heartbeat of this view, `lost` when the kernel falls silent, and `found` when it sends again. */
function heartbeat({ send, lost, found }) {
  let lastReceived = Date.now();
  let lastSent = Date.now() - HEARTBEAT_INTERVAL + 1000; // the first heartbeat after 1 s: by then the view has its subshell
  let interval = HEARTBEAT_INTERVAL;
  let silent = false;

  function check() {
    const now = Date.now();
    if (!silent && now - lastReceived > SILENCE) {
      silent = true;
      lost();
    }
    if (now - lastSent < interval) return;
    lastSent = now;
    interval = silent ? Math.min(2 * interval, LONGEST_INTERVAL) : HEARTBEAT_INTERVAL; // a restarted kernel logs each of them
    send();
  }

  const timer = setInterval(check, CHECK_INTERVAL);
  return {
    received() {
      lastReceived = Date.now();
      interval = HEARTBEAT_INTERVAL;
      if (!silent) return;
      silent = false;
      found();
    },
    stop: () => clearInterval(timer),
  };
}
