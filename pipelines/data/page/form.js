// The form's fields: read as an order, filled from one, and the prompt's tokens while it is typed.

import { countTokens } from "./api.js";
import { byId } from "./dom.js";

// Fields that may be empty: field of the order -> id.
const OPTIONAL = { guidance: "guidance", scale: "scale", width: "width", height: "height", strength: "strength" };
// Pictures: field of the API -> id.
const GIVEN = { image: "image", mask_image: "mask", control_image: "control" };
const TYPING_MS = 300;

const nameOf = (id) => document.querySelector(`label[for=${id}]`).firstChild.textContent.split(":")[0].trim();
const optional = (id) => (byId(id).value.trim() === "" ? null : Number(byId(id).value));

/**
 * The form as an order, or the sentence that says what is missing: {order} or {problem, at}.
 * `form` has mode(), chosenMethods() and chosenPeople().
 */
export function readOrder(form, service) {
  const now = form.mode();
  const missing = form.chosenPeople().find((person) => !person.identity);
  if (missing) return { problem: `${missing.legend.textContent}: choose a photo or a sample first.`, at: missing.file };
  for (const id of now === "sheet" ? ["prompt", "seed"] : ["prompt", "seed", "count"]) {
    if (!byId(id).value.trim()) return { problem: `${nameOf(id)} is empty.`, at: byId(id) };
  }
  for (const id of ["seed", ...(now === "sheet" ? [] : ["count"]), ...Object.values(OPTIONAL)]) {
    const field = byId(id);
    if (!field.checkValidity()) return { problem: `${nameOf(id)}: ${field.validationMessage}`, at: field };
  }
  for (const id of ["mask", "strength"]) {
    if (byId(id).value && !byId("image").files.length) {
      return { problem: `${nameOf(id)}: choose a picture to begin with, too.`, at: byId("image") };
    }
  }
  if (!form.chosenMethods().length) return { problem: "Choose at least one method.", at: document.querySelector("[name=method]") };
  const count = Number(byId("count").value);
  const order = {
    mode: now,
    sources: form.chosenPeople().map((person) => person.source),
    methods: form.chosenMethods(),
    prompt: byId("prompt").value.trim(),
    style: now === "sheet" ? "" : byId("style").value,
    styles: service.styles.map(({ style }) => style),
    negative: byId("negative").value.trim(),
    seed: Number(byId("seed").value),
    count,
    steps: Number(byId("steps").value),
    weights: Array.from({ length: count }, (_, n) => Number((n / (count - 1)).toFixed(4))),
  };
  for (const [name, id] of Object.entries(OPTIONAL)) order[name] = optional(id);
  order.pictures = Object.fromEntries(Object.entries(GIVEN)
    .filter(([, id]) => byId(id).files.length)
    .map(([field, id]) => [field, { name: byId(id).files[0].name, file: byId(id).files[0] }]));
  order.details = byId("details").checked;
  return { order };
}

/** Puts the pictures of an order into the form, as far as this page still has them; the names of the others. */
function showPictures(pictures) {
  const lost = [];
  for (const [field, id] of Object.entries(GIVEN)) {
    const given = pictures[field];
    const files = new DataTransfer();
    if (given?.file) files.items.add(given.file);
    else if (given) lost.push(given.name);
    byId(id).files = files.files;
  }
  if (Object.keys(pictures).length) byId("given").open = true;
  return lost;
}

/**
 * Puts settings into the form; `modeChosen` lays the form out for the mode. Unknown values are left.
 * The names of pictures that have to be chosen again.
 */
export function show(settings, modeChosen) {
  const mode = document.querySelector(`[name=mode][value="${CSS.escape(settings.mode ?? "pictures")}"]`);
  if (mode) mode.checked = true;
  modeChosen();
  for (const id of ["prompt", "seed", "count", "steps", "negative", "style"]) byId(id).value = settings[id] ?? "";
  if (byId("style").selectedIndex < 0) byId("style").value = "";
  for (const [name, id] of Object.entries(OPTIONAL)) byId(id).value = settings[name] ?? "";
  const boxes = [...document.querySelectorAll("[name=method]")];
  if (boxes.some((box) => settings.methods.includes(box.value))) {
    boxes.forEach((box) => { box.checked = settings.methods.includes(box.value); });
  }
  byId("details").checked = settings.details ?? true;
  if (settings.negative || Object.keys(OPTIONAL).some((name) => settings[name])) {
    document.querySelector(".advanced").open = true;
  }
  return showPictures(settings.pictures ?? {});
}

/** Shows how long the prompt is, against the most that the model reads. */
export function watchTokens() {
  let timer = null;
  let asked = 0;
  const ask = async () => {
    asked += 1;
    const mine = asked;
    const told = await countTokens(byId("prompt").value, byId("style").value).catch(() => null);
    if (mine !== asked) return;
    const known = told?.tokens !== null && told?.max_tokens;
    byId("tokens").textContent = known ? `${told.tokens} of ${told.max_tokens} tokens` : "";
    byId("tokens").classList.toggle("over", Boolean(known) && told.tokens > told.max_tokens);
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(ask, TYPING_MS);
  };
  byId("prompt").addEventListener("input", soon);
  byId("style").addEventListener("change", soon);
  ask();
}
