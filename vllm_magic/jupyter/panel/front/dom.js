// Making and changing elements. What comes from a log, a model or a person is only ever set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; props are attributes, but "class", "text" and functions named on... (listeners). */
function node(tag, props = {}, ...children) {
  return dress(document.createElement(tag), props, children);
}

/** An SVG element. */
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

/** Writes only what has changed: a selection in the text, and what a screen reader says, stay as they are. */
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

/** Replaces the children, unless the key is that of the last time. */
function fill(el, key, make) {
  const text = JSON.stringify(key);
  if (el.dataset.key === text) return;
  el.dataset.key = text;
  el.replaceChildren(...make());
}

let labels = 0;

/** A label and its input, tied together. */
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

/** Whether the text is in the clipboard now; without https, and not on localhost, browsers have the old way only. */
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

/** Seconds as a person says them. */
function lasting(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}
