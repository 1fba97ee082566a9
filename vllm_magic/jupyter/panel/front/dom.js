// Makes and changes elements. Text from a log, a model or a person is only set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `props` are its attributes, but "text" is its text, and the names that begin with "on" are listeners. */
function node(tag, props = {}, ...children) {
  return prepare(document.createElement(tag), props, children);
}

/** Makes an SVG element. */
function svg(tag, props = {}, ...children) {
  return prepare(document.createElementNS(SVG, tag), props, children);
}

function prepare(el, props, children) {
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
function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

/** Sets an attribute, or removes it if the value is null or false. */
function setAttribute(el, name, value) {
  if (value === null || value === false) el.removeAttribute(name);
  else if (el.getAttribute(name) !== String(value)) el.setAttribute(name, value);
}

function setVisible(el, visible) {
  if (el.hidden === visible) el.hidden = !visible;
}

/** Replaces the children by those that `make` returns, unless the key is the same as in the last call. */
function updateChildren(el, key, make) {
  const text = JSON.stringify(key);
  if (el.dataset.key === text) return;
  el.dataset.key = text;
  el.replaceChildren(...make());
}

let labelCount = 0;

/** Makes an element with a label and its input, connected by the id of the input. */
function labelled(text, input, extra = "") {
  input.id = input.id || `vmp-${Date.now().toString(36)}-${labelCount++}`;
  return node("div", { class: `vmp-field ${extra}` }, node("label", { for: input.id, text }), input);
}

function button(text, onclick, props = {}) {
  return node("button", { type: "button", class: "vmp-button", onclick, text, ...props });
}

function copyButton(text) {
  const done = button("Copy", async () => {
    setText(done, (await copyText(text())) ? "Copied" : "Not allowed");
    setTimeout(() => setText(done, "Copy"), 1500);
  });
  done.classList.add("vmp-small");
  return done;
}

/** Copies the text, and returns whether that worked. Without https, except on localhost, browsers have only the old API. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const focused = document.activeElement;
  const area = node("textarea", { style: "position:fixed;opacity:0", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused.focus();
  return done;
}

const GIB = 2 ** 30;

function gib(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  return `${(bytes / GIB).toFixed(bytes >= 10 * GIB ? 1 : 2)} GiB`;
}

function numberText(number) {
  if (number === null || number === undefined) return "–";
  return number >= 100 ? Math.round(number).toLocaleString("en") : String(Math.round(number * 10) / 10);
}

/** Makes the head and the body of a table. */
function tableParts(columns, rows) {
  const cells = (tag, texts) => texts.map((text) => node(tag, tag === "th" ? { scope: "col", text } : { text: String(text) }));
  return [node("thead", {}, node("tr", {}, ...cells("th", columns))), node("tbody", {}, ...rows.map((row) => node("tr", {}, ...cells("td", row))))];
}

/** Returns seconds as text for a person, such as "2 min 3 s". */
function durationText(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}
