// The form: what to make, of whom, how; starts runs and stops them.

import { ServiceError, generate, get, setKey } from "./api.js";
import { byId, el, tell, title } from "./dom.js";
import { PersonPicker } from "./people.js";
import { Run } from "./results.js";

const EXAMPLES = {
  "Beach": "a person wearing a colorful shirt, smiling to the camera, on the beach",
  "Snow": "a person wearing blue clothing, smiling to the camera, in the snow, sunny",
  "Times Square": "a person wearing a red shirt, smiling to the camera, in the time square",
};
const COUNTS = {
  pictures: { label: "Pictures", min: 1, value: 1 },
  blend: { label: "Stops from A to B", min: 2, value: 5 },
};
const RUNS_KEPT = 12;
// Unfinished pictures of each.
const PREVIEWS = 4;

let service = null;
let people = [];
let running = null;

const mode = () => document.querySelector("[name=mode]:checked").value;
const chosenMethods = () => [...document.querySelectorAll("[name=method]:checked")].map((box) => box.value);
const chosenPeople = () => people.slice(0, mode() === "blend" ? 2 : 1);

async function load() {
  const [settings, methods, styles, samples] = await Promise.all(
    ["settings", "methods", "styles", "samples"].map((name) => get(`v1/${name}`)));
  service = { settings, methods, styles, samples };
  byId("preset").replaceChildren(settings.preset, el("span", {}, ` · ${settings.width} × ${settings.height} px`));
  tell(byId("banner"), settings.untrained ? "Untrained weights: pictures are noise. Everything else works." : "");
  byId("prompt").maxLength = settings.max_prompt_chars;
  Object.assign(byId("steps"), { max: settings.max_steps, value: settings.steps });
  byId("style").append(...styles.map(({ style }) => el("option", { value: style }, title(style))));
  byId("methods").append(...methods.map((method, n) => el("label", { className: "check" },
    el("input", { type: "checkbox", name: "method", value: method.name, checked: n === 0 }), method.title)));
  people = ["Person", "Person B"].map((heading) => new PersonPicker(heading, samples, refresh));
  byId("people").append(...people.map((person) => person.root));
  refresh();
}

/** Shows what the mode needs and what the button will make. */
function refresh() {
  const now = mode();
  people[0].legend.textContent = now === "blend" ? "Person A" : "Person";
  people[1].root.hidden = now !== "blend";
  byId("style-field").hidden = now === "sheet";
  byId("count").parentElement.hidden = now === "sheet";
  const count = COUNTS[now];
  if (count && byId("count-label").textContent !== count.label) {
    byId("count-label").textContent = count.label;
    Object.assign(byId("count"), { min: count.min, max: service.settings.max_images, value: count.value });
  }
  byId("steps-value").textContent = byId("steps").value;
  const each = now === "sheet" ? service.styles.length : Number(byId("count").value);
  const total = each * chosenMethods().length;
  byId("make").textContent = total > 1 ? `Make ${total} pictures` : "Make picture";
}

/** The form as an order, or the sentence that says what is missing. */
function readOrder() {
  const now = mode();
  const missing = chosenPeople().find((person) => !person.identity);
  if (missing) return { problem: `${missing.legend.textContent}: choose a photo or a sample first.`, at: missing.file };
  for (const id of now === "sheet" ? ["prompt", "seed"] : ["prompt", "seed", "count"]) {
    const field = byId(id);
    const name = document.querySelector(`label[for=${id}]`).textContent.trim();
    if (!field.value.trim()) return { problem: `${name} is empty.`, at: field };
    if (!field.checkValidity()) return { problem: `${name}: ${field.validationMessage}`, at: field };
  }
  if (!chosenMethods().length) return { problem: "Choose at least one method.", at: document.querySelector("[name=method]") };
  const order = {
    mode: now,
    sources: chosenPeople().map((person) => person.source),
    methods: chosenMethods(),
    prompt: byId("prompt").value.trim(),
    style: now === "sheet" ? "" : byId("style").value,
    styles: service.styles.map(({ style }) => style),
    seed: Number(byId("seed").value),
    count: Number(byId("count").value),
    steps: Number(byId("steps").value),
  };
  order.weights = Array.from({ length: order.count }, (_, n) => Number((n / (order.count - 1)).toFixed(4)));
  order.variants = variants(order);
  return { order };
}

/** One entry a picture of each method: its label and how its request differs. */
function variants(order) {
  if (order.mode === "sheet") {
    return order.styles.map((style) => ({ label: title(style), change: () => ({ style }) }));
  }
  if (order.mode === "blend") {
    return order.weights.map((weight) => ({
      label: `${Math.round((1 - weight) * 100)} % A, ${Math.round(weight * 100)} % B`,
      change: () => ({
        identity_id: undefined,
        mix: chosenPeople().map((person, n) => ({
          identity_id: person.identity.identity_id, weight: n ? weight : 1 - weight,
        })),
      }),
    }));
  }
  return Array.from({ length: order.count }, (_, n) => ({
    label: order.count > 1 ? `Seed ${order.seed + n}` : "",
    change: () => ({ seed: order.seed + n }),
  }));
}

async function make(event) {
  event.preventDefault();
  if (running) return;
  const { order, problem, at } = readOrder();
  tell(byId("order-error"), problem ?? "");
  if (problem) {
    at.focus();
    return;
  }
  const crops = chosenPeople().map((person) => person.crop);
  const run = new Run(order, service.methods, service.settings.scores, crops);
  byId("empty").hidden = true;
  byId("status").after(run.root);
  [...document.querySelectorAll(".run")].slice(RUNS_KEPT).forEach((old) => old.remove());
  running = new AbortController();
  toggle(true);
  say(run.cells.length > 1 ? `Making ${run.cells.length} pictures.` : "Making a picture.");
  if (matchMedia("(max-width: 60rem)").matches) run.root.scrollIntoView({ block: "start" });
  const made = await Promise.all(run.cells.map((entry) => one(order, entry, running.signal)));
  running = null;
  toggle(false);
  const good = made.filter(Boolean).length;
  say(good === made.length ? `Done: ${good} of ${good}.` : `${good} of ${made.length} pictures were made.`);
}

/** Makes one picture in its cell; whether that worked. */
async function one(order, { cell, method, variant }, signal) {
  const body = () => ({
    prompt: order.prompt,
    identity_id: people[0].identity?.identity_id,
    method,
    ...(order.style && { style: order.style }),
    seed: order.seed,
    steps: order.steps,
    scores: true,
    previews: Math.min(PREVIEWS, service.settings.max_previews),
    ...variant.change(),
  });
  const on = (name, data) => cell.on(name, data);
  try {
    const answer = await generate(body(), on, signal).catch(async (error) => {
      if (error.code !== "unknown_identity" || !(await renew(order))) throw error;
      return generate(body(), on, signal);
    });
    cell.done(answer.images[0]);
    return true;
  } catch (error) {
    const stopped = error.name === "AbortError";
    cell.fail(stopped ? "Stopped." : error.message);
    if (!stopped) tell(byId("order-error"), error.message);
    return false;
  }
}

let renewal = null;

/** Once for all pictures of a run: the service keeps people for a while only. */
function renew(order) {
  renewal ??= Promise.all(order.sources.map((source, n) => people[n].renew(source)))
    .then((same) => same.every(Boolean))
    .finally(() => { renewal = null; });
  return renewal;
}

function toggle(busy) {
  // A disabled or hidden button would lose the keyboard's place.
  byId("make").setAttribute("aria-disabled", String(busy));
  if (!busy && document.activeElement === byId("stop")) byId("make").focus();
  byId("stop").hidden = !busy;
}

function say(sentence) {
  byId("status").textContent = sentence;
}

function theme() {
  const root = document.documentElement;
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
  };
  try {
    const kept = localStorage.getItem("theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* storage is switched off */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch { /* likewise */ }
    show();
  });
  system.addEventListener("change", show);
  show();
}

async function start() {
  try {
    await load();
    byId("key-form").hidden = true;
    byId("order").hidden = false;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    const locked = error.status === 401;
    byId("order").hidden = true;
    byId("key-form").hidden = !locked;
    tell(byId(locked ? "key-error" : "banner"), error.code === "no_key" ? "" : error.message);
    if (locked) byId("key").focus();
  }
}

theme();
byId("examples").append(...Object.entries(EXAMPLES).map(([name, text]) => {
  const button = el("button", { type: "button" }, name);
  button.addEventListener("click", () => { byId("prompt").value = text; });
  return button;
}));
byId("dice").addEventListener("click", () => { byId("seed").value = Math.floor(Math.random() * 1e6); });
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("order").requestSubmit();
});
byId("order").addEventListener("input", () => { if (service) refresh(); });
byId("order").addEventListener("submit", make);
byId("stop").addEventListener("click", () => running?.abort());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  start();
});
start();
