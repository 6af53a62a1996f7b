// The form: what to make, of whom, how; starts runs and stops them.

import { ServiceError, generate, get, setKey } from "./api.js";
import { byId, dataUrl, el, tell, title } from "./dom.js";
import { readOrder, show as showSettings, watchTokens } from "./form.js";
import * as history from "./history.js";
import { PersonPicker } from "./people.js";
import { Run } from "./results.js";
import { sharedSettings } from "./share.js";
import { HALVES } from "./snippets.js";
import { theme } from "./theme.js";
import { confirmed } from "./viewer.js";

const EXAMPLES = {
  "Beach": "a person wearing a colorful shirt, smiling to the camera, on the beach",
  "Snow": "a person wearing blue clothing, smiling to the camera, in the snow, sunny",
  "Times Square": "a person wearing a red shirt, smiling to the camera, in the time square",
  "Two people": "two people, a person wearing a red shirt on the left and a person wearing a blue shirt on the right, on the beach",
};
const COUNTS = {
  pictures: { label: "Pictures", min: 1, value: 1 },
  blend: { label: "Stops from A to B", min: 2, value: 5 },
  together: { label: "Pictures", min: 1, value: 1 },
};
// Modes of two people, and what their choices are called.
const TWO = { blend: ["Person A", "Person B"], together: ["Person on the left", "Person on the right"] };
const RUNS_SHOWN = 12;
// More at once are asked for only after a question.
const MANY = 16;
const MORE = 4;
// Unfinished pictures of each.
const PREVIEWS = 4;

let service = null;
let people = [];
let running = null;

const mode = () => document.querySelector("[name=mode]:checked").value;
const methodBoxes = () => [...document.querySelectorAll("[name=method]")].filter((box) => !box.closest("[hidden]"));
const chosenMethods = () => methodBoxes().filter((box) => box.checked).map((box) => box.value);
const chosenPeople = () => people.slice(0, mode() in TWO ? 2 : 1);
const form = { mode, chosenMethods, chosenPeople };

async function load() {
  // Alone: without a key each request counts as a failure of this address.
  const settings = await get("v1/settings");
  const [methods, styles, samples] = await Promise.all(
    ["methods", "styles", "samples"].map((name) => get(`v1/${name}`)));
  service = { settings, methods, styles, samples };
  byId("preset").replaceChildren(settings.preset, el("span", {}, ` · ${settings.width} × ${settings.height} px`));
  tell(byId("banner"), settings.untrained ? "Untrained weights: pictures are noise. Everything else works." : "");
  byId("prompt").maxLength = byId("negative").maxLength = settings.max_prompt_chars;
  Object.assign(byId("steps"), { max: settings.max_steps, value: settings.steps });
  Object.assign(byId("guidance"), { max: settings.max_guidance, placeholder: settings.guidance_scale });
  Object.assign(byId("scale"), { max: settings.max_identity_scale, placeholder: settings.identity_scale });
  for (const side of ["width", "height"]) {
    Object.assign(byId(side), { min: settings.min_side, max: settings.max_side, step: settings.side_step, placeholder: settings[side] });
  }
  byId("control-field").hidden = !settings.controlnet;
  byId("details-field").hidden = !settings.details;
  byId("style").append(...styles.map(({ style }) => el("option", { value: style }, title(style))));
  byId("methods").append(...methods.map((method, n) => el("label", { className: "check" },
    el("input", { type: "checkbox", name: "method", value: method.name, checked: n === 0 }), method.title)));
  people = ["Person", "Person B"].map((heading) => new PersonPicker(heading, samples, settings.max_photos, refresh));
  byId("people").append(...people.map((person) => person.root));
  const shared = sharedSettings();
  refresh();
  if (shared) use(shared);
  watchTokens();
  await showEarlier();
}

/** Shows what the mode needs and what the button will make. */
function refresh() {
  const now = mode();
  people.forEach((person, n) => { person.legend.textContent = TWO[now]?.[n] ?? "Person"; });
  people[1].root.hidden = !(now in TWO);
  byId("together-note").hidden = now !== "together";
  byId("style-field").hidden = now === "sheet";
  byId("count").parentElement.hidden = now === "sheet";
  // Without a person all stops of a blend are one picture.
  for (const { name, personal } of service.methods) {
    document.querySelector(`[name=method][value="${name}"]`).closest("label").hidden = now === "blend" && !personal;
  }
  const count = COUNTS[now];
  if (count && byId("count-label").textContent !== count.label) {
    byId("count-label").textContent = count.label;
    Object.assign(byId("count"), { min: count.min, max: service.settings.max_images, value: count.value });
  }
  byId("steps-value").textContent = byId("steps").value;
  const each = now === "sheet" ? service.styles.length : Number(byId("count").value);
  const total = each * chosenMethods().length;
  byId("make").textContent = total > 1 ? `Make ${total} pictures` : "Make picture";
  // What was wrong may be right now.
  if (!running) tell(byId("order-error"), "");
}

/** Puts an order's settings, or those of a shared link, into the form; the names of pictures that are lost. */
function use(settings) {
  const lost = showSettings(settings, refresh);
  refresh();
  byId("prompt").dispatchEvent(new Event("input", { bubbles: true }));
  if (lost.length) tell(byId("order-error"), `Choose again, for this page keeps no picture of yours: ${lost.join(", ")}.`);
  return lost;
}

// One run at a time: its pictures stand in the order in which the service makes them.
const WAIT = "Pictures are being made: wait for them, or stop.";
const busy = () => {
  if (running) tell(byId("order-error"), WAIT);
  return running !== null;
};

const actions = {
  use(order) {
    use(order);
    byId("prompt").focus();
  },
  more(order, method, variant) {
    if (busy()) return;
    const lost = use({ ...order, mode: order.mode === "together" ? order.mode : "pictures", methods: [method], style: variant.style ?? order.style,
      seed: Math.floor(Math.random() * 1e6), count: Math.min(MORE, service.settings.max_images) });
    // Without its picture it would be another one.
    if (!lost.length) byId("order").requestSubmit();
  },
  async retry(run, entry) {
    if (busy()) return;
    tell(byId("order-error"), "");
    entry.cell.reset();
    await work(run, [entry]);
  },
  remove(run) {
    run.root.remove();
    history.drop(run.id).catch(() => {});
    showEmpty();
  },
};

async function make(event) {
  event.preventDefault();
  if (busy()) return;
  const { order, problem, at } = readOrder(form, service);
  tell(byId("order-error"), problem ?? "");
  if (problem) {
    const closed = at.closest("details:not([open])");
    if (closed) closed.open = true;
    at.focus();
    return;
  }
  const crops = chosenPeople().map((person) => person.crop);
  const run = new Run(order, service.methods, service.settings.scores, crops, actions);
  const total = run.cells.length;
  if (total > MANY && !(await confirmed(`This makes ${total} pictures, one after the other. Go on?`, `Make ${total} pictures`))) return;
  byId("empty").hidden = true;
  document.querySelector(".example")?.remove();
  byId("status").after(run.root);
  [...document.querySelectorAll(".run")].slice(RUNS_SHOWN).forEach((old) => old.remove());
  if (matchMedia("(max-width: 60rem)").matches) run.root.scrollIntoView({ block: "start" });
  await work(run, run.cells);
}

/** Makes the pictures of these cells of a run, and keeps the run. */
async function work(run, entries) {
  running = new AbortController();
  toggle(true);
  say(entries.length > 1 ? `Making ${entries.length} pictures.` : "Making a picture.");
  const made = await Promise.all(entries.map((entry) => one(run, entry, running.signal)));
  running = null;
  if (byId("order-error").textContent === WAIT) tell(byId("order-error"), "");
  toggle(false);
  const good = made.filter(Boolean).length;
  say(good === made.length ? `Done: ${good} of ${good}.` : `${good} of ${made.length} pictures were made.`);
  if (!good) return;
  // A window without storage (private, or full) still shows them.
  await history.keep(run.record()).catch(() => {});
  showKept();
}

/** Makes one picture in its cell; whether that worked. */
async function one(run, entry, signal) {
  const { order } = run;
  const { cell, method, variant } = entry;
  if (order.sources.some((source, n) => people[n].source !== source)) {
    cell.fail("Choose the same person again to make it.");
    return false;
  }
  const pictures = Object.entries(order.pictures ?? {});
  if (pictures.some(([, { file }]) => !file)) {
    cell.fail("Choose the same pictures again to make it.");
    return false;
  }
  const who = () => {
    const ids = people.map(({ identity }) => identity?.identity_id);
    if (order.mode === "blend") return { mix: ids.map((id, n) => ({ identity_id: id, weight: n ? variant.weight : 1 - variant.weight })) };
    if (order.mode === "together") return { group: ids.map((id, n) => ({ identity_id: id, region: HALVES[n] })) };
    return { identity_id: ids[0] };
  };
  const style = variant.style ?? order.style;
  const body = () => ({
    prompt: order.prompt,
    ...who(),
    method,
    ...(style && { style }),
    ...(order.negative && { negative_prompt: order.negative }),
    seed: variant.seed ?? order.seed,
    steps: order.steps,
    ...(order.guidance !== null && { guidance_scale: order.guidance }),
    ...(order.scale !== null && { identity_scale: order.scale }),
    ...(order.width !== null && { width: order.width }),
    ...(order.height !== null && { height: order.height }),
    ...((order.strength ?? null) !== null && { strength: order.strength }),
    ...(service.settings.details && order.details === false && { details: false }),
    ...given,
    scores: true,
    previews: Math.min(PREVIEWS, service.settings.max_previews),
  });
  const on = (name, data) => cell.on(name, data);
  let given = {};
  try {
    given = Object.fromEntries(await Promise.all(
      pictures.map(async ([field, { file }]) => [field, await dataUrl(file)])));
    const answer = await generate(body(), on, signal).catch(async (error) => {
      if (error.code !== "unknown_identity" || !(await renew(order))) throw error;
      return generate(body(), on, signal);
    });
    run.done(entry, answer.images[0]);
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

/** The runs of earlier visits, or a finished example where there are none. */
async function showEarlier() {
  if (document.querySelector(".run")) return;
  const { settings, methods } = service;
  const earlier = await history.runs().catch(() => []);
  for (const record of earlier.slice(0, RUNS_SHOWN)) {
    const run = new Run(record.order, methods, settings.scores, record.crops, actions, record.id);
    byId("results").insertBefore(run.root, byId("empty"));
    run.restore(record);
  }
  showEmpty();
}

/** As on a first visit, where no run is left. */
function showEmpty() {
  showKept();
  if (!document.querySelector(".run")) showExample();
}

async function showExample() {
  byId("empty").hidden = false;
  const told = await fetch("page/example/example.json").then((answer) => answer.json());
  // Of another model it would promise what this one does not make.
  if (told.preset !== service.settings.preset) return;
  const record = { ...told, crops: [`data:image/png;base64,${service.samples.find(({ name }) => name === told.sample).png}`] };
  record.cells = await Promise.all(told.cells.map(async ({ file, ...picture }) => ({
    picture, blob: await fetch(`page/example/${file}`).then((answer) => answer.blob()),
  })));
  const run = new Run(told.order, service.methods, service.settings.scores, record.crops, { use: actions.use }, 0);
  run.restore(record);
  run.root.classList.add("example");
  run.root.prepend(el("p", { className: "small soft" }, "An example: a person who does not exist, in every style."));
  byId("empty").append(run.root);
}

function showKept() {
  byId("kept").hidden = !document.querySelector(".run:not(.example)");
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

async function start() {
  try {
    await load();
    byId("key-form").hidden = true;
    byId("order").hidden = false;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    // A right key is let in however many wrong ones came from here.
    const locked = error.status === 401 || error.code === "too_many_failures";
    byId("order").hidden = true;
    byId("key-form").hidden = !locked;
    tell(byId(locked ? "key-error" : "banner"), error.code === "no_key" ? "" : error.message);
    if (locked) byId("key").focus();
  }
}

theme(byId("theme"));
byId("examples").append(...Object.entries(EXAMPLES).map(([name, text]) => {
  const button = el("button", { type: "button" }, name);
  button.addEventListener("click", () => {
    byId("prompt").value = text;
    byId("prompt").dispatchEvent(new Event("input", { bubbles: true }));
  });
  return button;
}));
byId("dice").addEventListener("click", () => { byId("seed").value = Math.floor(Math.random() * 1e6); });
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("order").requestSubmit();
});
byId("order").addEventListener("input", () => { if (service) refresh(); });
byId("order").addEventListener("submit", make);
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", async () => {
  if (!(await confirmed("Forget all pictures that this browser keeps?", "Clear history"))) return;
  await history.clear().catch(() => {});
  document.querySelectorAll(".run:not(.example)").forEach((run) => run.remove());
  showEmpty();
  byId("make").focus();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  start();
});
start();
