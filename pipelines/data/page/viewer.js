// One picture at a time, as large as the window; arrow keys go on, Escape closes.

import { el } from "./dom.js";

const image = el("img", { alt: "" });
const words = el("p", { "aria-live": "polite" });
const save = el("a", { className: "button" }, "Save");
const step = (by, name, sign) => {
  const button = el("button", { type: "button", "aria-label": name }, sign);
  button.addEventListener("click", () => go(by));
  return button;
};
const before = step(-1, "Previous picture", "‹");
const after = step(1, "Next picture", "›");
const close = el("button", { type: "button", "aria-label": "Close" }, "×");
const dialog = el("dialog", { className: "viewer", "aria-label": "Picture" },
  el("div", { className: "stage" }, before, image, after),
  el("div", { className: "line" }, words, save), close);
let shown = [];
let place = 0;

close.addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) {
    event.preventDefault();
    go(by);
  }
});

function go(by) {
  place = (place + by + shown.length) % shown.length;
  const { url, alt, caption, name } = shown[place];
  Object.assign(image, { src: url, alt });
  Object.assign(save, { href: url, download: name });
  words.textContent = shown.length > 1 ? `${caption} · ${place + 1} of ${shown.length}` : caption;
  before.hidden = after.hidden = shown.length < 2;
}

/** Shows picture number `first` of [{url, alt, caption, name}]; `name` of its file. */
export function view(pictures, first) {
  if (!dialog.isConnected) document.body.append(dialog);
  shown = pictures;
  place = first;
  go(0);
  dialog.showModal();
}

/** Asks; resolves to whether the answer is yes. */
export function confirmed(question, yes) {
  const no = el("button", { type: "button" }, "Cancel");
  const go = el("button", { type: "button", className: "primary" }, yes);
  const box = el("dialog", { className: "question" }, el("p", {}, question), el("div", { className: "line" }, no, go));
  document.body.append(box);
  return new Promise((resolve) => {
    let answer = false;
    no.addEventListener("click", () => box.close());
    go.addEventListener("click", () => { answer = true; box.close(); });
    box.addEventListener("close", () => { box.remove(); resolve(answer); });
    box.showModal();
    go.focus();
  });
}
