// Making and changing elements. Text from a log, a model or a person is only set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element; props are its attributes, except "text" (its text) and functions named on... (its listeners). */
function node(tag, props = {}, ...children) {
  return dress(document.createElement(tag), props, children);
}

/** Makes an SVG element. */
function svg(tag, props = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), props, children);
}

function dress(el, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") el.textContent = value;
    else if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (value === true) el.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) el.setAttribute(name, value);
  }
  el.append(...children.filter((child) => child !== null));
  return el;
}

/** Sets the text only where it has changed, so that a selection stays and a screen reader does not repeat the text. */
function say(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

function mark(el, name, value) {
  if (value === null || value === false) el.removeAttribute(name);
  else if (el.getAttribute(name) !== String(value)) el.setAttribute(name, value);
}

function show(el, yes) {
  if (el.hidden === yes) el.hidden = !yes;
}

/** Replaces the children, unless the key is the same as in the last call. */
function fill(el, key, make) {
  const text = JSON.stringify(key);
  if (el.dataset.key === text) return;
  el.dataset.key = text;
  el.replaceChildren(...make());
}

let labels = 0;

/** Makes an element with a label and its input, connected by the id of the input. */
function labelled(text, input, extra = "") {
  input.id = input.id || `vmp-${Date.now().toString(36)}-${labels++}`;
  return node("div", { class: `vmp-field ${extra}` }, node("label", { for: input.id, text }), input);
}

function button(text, onclick, props = {}) {
  return node("button", { type: "button", class: "vmp-button", onclick, text, ...props });
}

function copier(text) {
  const done = button("Copy", async () => {
    say(done, (await copied(text())) ? "Copied" : "Not allowed");
    setTimeout(() => say(done, "Copy"), 1500);
  });
  done.classList.add("vmp-small");
  return done;
}

/** Copies the text, and tells whether that worked. Without https, except on localhost, browsers have the old API only. */
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const had = document.activeElement;
  const area = node("textarea", { style: "position:fixed;opacity:0", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  had.focus();
  return done;
}

const GIB = 2 ** 30;

function gib(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  return `${(bytes / GIB).toFixed(bytes >= 10 * GIB ? 1 : 2)} GiB`;
}

function count(number) {
  if (number === null || number === undefined) return "–";
  return number >= 100 ? Math.round(number).toLocaleString("en") : String(Math.round(number * 10) / 10);
}

/** Returns seconds as text for a person, such as "2 min 3 s". */
function lasting(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}
