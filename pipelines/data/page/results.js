// Pictures as they are made: a run holds one group a method, a group one cell a picture.

import { copy, el, fileBlob, fileUrl, title } from "./dom.js";
import { shareLink } from "./share.js";
import { curl, pythonCode } from "./snippets.js";
import { view } from "./viewer.js";
import { zip } from "./zip.js";

// Beside every picture, in plain words; all other scores are one click away.
const SHOWN = { identity_facenet: "Looks like the photo", text_score: "Follows the prompt" };

const PLACES = ["Left looks like the photo", "Right looks like the photo"];

/** One picture: waits, shows its steps and previews, then itself and its scores, or an error. */
export class Cell {
  /** `actions`: `open()`, `more()` and `retry()`. */
  constructor(label, infos, actions) {
    Object.assign(this, { label, infos, actions, url: null, picture: null, began: null });
    this.image = el("img", { alt: "", hidden: true });
    this.thumb = el("img", { alt: "" });
    this.bar = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${label}` });
    this.words = el("p", { className: "step" }, "Waiting");
    this.left = el("p", { className: "left" });
    this.wait = el("div", { className: "wait" }, this.words, this.left, this.bar);
    this.frame = el("div", { className: "frame" }, this.image, this.wait);
    this.below = el("div", { className: "below" });
    this.root = el("figure", { className: "cell" },
      this.frame, el("figcaption", {}, el("p", { className: "label" }, label), this.below));
  }

  /** Back to the beginning, for another attempt. */
  reset() {
    this.began = null;
    this.words.textContent = "Waiting";
    Object.assign(this.bar, { max: 1, value: 0 });
    this.left.textContent = "";
    this.wait.replaceChildren(this.words, this.left, this.bar);
  }

  on(name, data) {
    if (name === "queued") {
      this.words.textContent = data.before ? `In the queue, ${data.before} before it` : "In the queue";
    }
    if (name === "waiting") this.words.textContent = `The service is full: again in ${data.seconds} s`;
    if (name === "step") {
      this.words.textContent = `Step ${data.step} of ${data.steps}`;
      this.timeLeft(data.step, data.steps);
      Object.assign(this.bar, { max: data.steps, value: data.step });
    }
    if (name === "preview") {
      this.show(fileUrl(data.image, ""), "");
      this.frame.classList.add("unfinished");
    }
  }

  timeLeft(step, steps) {
    const now = performance.now();
    this.began ??= { now, step };
    const done = step - this.began.step;
    const left = done > 1 ? ((now - this.began.now) / done) * (steps - step) / 1000 : 0;
    this.left.textContent = left >= 2 ? `about ${Math.round(left)} s left` : "";
  }

  show(url, alt) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = url;
    Object.assign(this.image, { src: url, alt, hidden: false });
    this.thumb.src = url;
  }

  /** `blob` where it was kept; else the picture carries its file. */
  done(picture, name, blob = null) {
    this.picture = picture;
    this.name = name;
    this.frame.classList.remove("unfinished");
    this.wait.remove();
    this.blob = blob ?? fileBlob(picture.data, `image/${picture.format}`);
    this.show(URL.createObjectURL(this.blob), `${this.label}, AI-generated`);
    const open = el("button", { type: "button", className: "open", "aria-label": `Enlarge ${this.label}` }, this.image);
    open.addEventListener("click", () => this.actions.open());
    this.frame.append(open);
    // Of several people each has a score of their own.
    const together = (picture.people ?? []).map(({ identity }, n) => this.score("identity_facenet", PLACES[n], identity));
    const rows = Object.entries(SHOWN).flatMap(([key, short]) => (
      together.length && key === "identity_facenet" ? together : [this.score(key, short, picture.scores[key])]));
    const others = this.infos.filter((info) => !(info.name in SHOWN));
    const more = el("button", { type: "button", className: "quiet" }, "More like this");
    more.addEventListener("click", () => this.actions.more());
    this.below.replaceChildren(
      picture.blurred ? el("p", { className: "small soft" }, "Blurred by the safety check") : "",
      el("dl", { className: "scores" }, ...rows.flat()),
      el("div", { className: "line" },
        el("a", { href: this.url, download: name, className: "button quiet", "aria-label": `Save ${this.label}` }, "Save"),
        this.actions.more ? more : ""),
      el("details", {}, el("summary", {}, "All scores"),
        el("dl", { className: "others" }, ...others.flatMap((info) => [
          el("dt", { title: info.note }, info.title),
          el("dd", {}, number(picture.scores[info.name], info.unit)),
        ])),
        el("p", { className: "small soft" }, `${picture.seconds.toFixed(1)} s with its batch`)));
  }

  score(name, short, value) {
    const info = this.infos.find((one) => one.name === name);
    const bar = el("span", { className: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--value", Math.min(Math.max(value ?? 0, 0), 1));
    return [
      el("dt", { title: info ? `${info.title}: ${info.note}` : name }, short),
      el("dd", {}, bar, el("span", { className: "value" }, name.startsWith("identity") && (value ?? null) === null
        ? "no face" : number(value, "cosine"))),
    ];
  }

  fail(sentence, again = true) {
    this.frame.classList.remove("unfinished");
    this.image.hidden = true;
    const retry = el("button", { type: "button", hidden: !again }, "Try again");
    retry.addEventListener("click", () => this.actions.retry());
    this.wait.replaceChildren(el("p", { className: "error" }, sentence), retry);
  }
}

function number(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${Math.round(value * 100)} %`;
  return unit === "faces" ? String(value) : value.toFixed(2);
}

/** One entry a picture of each method of an order: its label and how its request differs. */
export function variants(order) {
  if (order.mode === "sheet") return order.styles.map((style) => ({ label: title(style), style }));
  if (order.mode === "blend") {
    return order.weights.map((weight) => ({
      label: `${Math.round((1 - weight) * 100)} % A, ${Math.round(weight * 100)} % B`, weight,
    }));
  }
  return Array.from({ length: order.count }, (_, n) => ({
    label: order.count > 1 ? `Seed ${order.seed + n}` : "", seed: order.seed + n,
  }));
}

/** What was asked for at once, with its pictures and the code that makes them again. */
export class Run {
  /**
   * `actions`: `use(order)`, `more(order, method, variant)`, `retry(run, entry)`, `remove(run)`;
   * those that are missing are not offered.
   */
  constructor(order, methods, infos, crops, actions, id = Date.now()) {
    Object.assign(this, { order, crops, actions, id, cells: [] });
    const heading = `run-${id}`;
    const meta = [
      order.mode === "sheet" ? "All styles" : title(order.style || "no style"),
      `seed ${order.seed}`,
      `${order.steps} ${order.steps === 1 ? "step" : "steps"}`,
    ].join(" · ");
    this.groups = el("div", { className: `groups ${order.mode === "together" ? "pictures" : order.mode}` });
    const all = variants(order);
    this.groups.style.setProperty("--cells", all.length);
    for (const method of order.methods) {
      const name = methods.find((one) => one.name === method)?.title ?? method;
      const cells = el("div", { className: "cells" });
      for (const variant of all) {
        const entry = { method, variant };
        entry.cell = new Cell(`${name}${variant.label ? `, ${variant.label}` : ""}`, infos, {
          open: () => this.open(entry),
          more: actions.more && (() => actions.more(order, method, variant)),
          retry: () => actions.retry(this, entry),
        });
        // In a blend the slider says it, elsewhere the group's heading has said the method.
        entry.cell.root.querySelector(".label").textContent = order.mode === "blend" ? "" : variant.label;
        cells.append(entry.cell.root);
        this.cells.push(entry);
      }
      this.groups.append(el("div", { className: "group", role: "group", "aria-label": name }, el("h3", {}, name), cells));
    }
    this.root = el("article", { className: "panel run", "aria-labelledby": heading },
      el("header", {},
        el("div", { className: "who" }, ...crops.map((src) => el("img", { src, alt: "", width: 48, height: 48 }))),
        el("div", {}, el("h2", { id: heading }, order.prompt), el("p", { className: "soft small" }, meta))),
      order.mode === "blend" ? this.slider(order, crops, all) : "",
      this.groups,
      this.tools(),
      el("div", { className: "about" }, meaning(infos), code(order)));
  }

  tools() {
    const said = el("span", { role: "status", className: "soft small" });
    const button = (text, work) => {
      const made = el("button", { type: "button", className: "quiet" }, text);
      made.addEventListener("click", work);
      return made;
    };
    this.saveAll = button("Save all", () => this.save());
    this.saveAll.hidden = true;
    return el("div", { className: "line tools" },
      this.actions.use ? button("Use these settings", () => this.actions.use(this.order)) : "",
      this.saveAll,
      button("Copy link", async () => {
        const link = shareLink(this.order);
        said.textContent = (await copy(link)) ? "Copied: the settings, no photo" : link;
      }),
      this.actions.remove ? button("Remove", () => this.actions.remove(this)) : "",
      said);
  }

  /** METHOD-STYLE-SEED of a picture. */
  nameOf({ method, variant }, picture) {
    const style = variant.style ?? this.order.style;
    const blend = variant.weight === undefined ? "" : `-${Math.round(variant.weight * 100)}b`;
    return `${method}-${style || "no_style"}-${picture.seed}${blend}.${picture.format}`;
  }

  /** Puts a picture into its cell. */
  done(entry, picture, blob = null) {
    entry.cell.done(picture, this.nameOf(entry, picture), blob);
    this.saveAll.hidden = false;
  }

  open(entry) {
    const made = this.cells.filter(({ cell }) => cell.picture);
    view(made.map(({ cell, variant }) => ({
      url: cell.url, alt: cell.image.alt, name: cell.name,
      caption: cell.label.includes(variant.label) ? cell.label : `${cell.label}, ${variant.label}`,
    })), made.indexOf(entry));
  }

  /** The pictures and a JSON file of how they were made, in one zip file. */
  async save() {
    const made = this.cells.filter(({ cell }) => cell.picture);
    const files = made.map(({ cell }) => ({ name: cell.name, blob: cell.blob }));
    const { sources, ...order } = this.order;
    const settings = { ...order, pictures: this.pictureNames() };
    const pictures = made.map(({ cell, method, variant }) => {
      const { data, ...picture } = cell.picture;
      return { file: cell.name, ...picture, method, ...variant };
    });
    const about = JSON.stringify({ settings, pictures }, null, 2);
    files.push({ name: "settings.json", blob: new Blob([about], { type: "application/json" }) });
    const url = URL.createObjectURL(await zip(files));
    el("a", { href: url, download: `infinite-id-${this.id}.zip` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  /** The names of the pictures that it begins with or is held to, by field. */
  pictureNames() {
    return Object.fromEntries(Object.entries(this.order.pictures ?? {}).map(([field, { name }]) => [field, { name }]));
  }

  /** What the browser's storage keeps of it: settings, faces, pictures; no photo. */
  record() {
    const sources = this.order.sources.map(({ sample, names, face }) => ({ sample, names, face }));
    const cells = this.cells.map(({ cell }) => {
      if (!cell.picture) return null;
      const { data, ...picture } = cell.picture;
      return { picture, blob: cell.blob };
    });
    return { id: this.id, order: { ...this.order, sources, pictures: this.pictureNames() }, crops: this.crops, cells };
  }

  /** Shows what `record` kept. */
  restore(record) {
    this.cells.forEach((entry, n) => {
      const kept = record.cells[n];
      if (kept) this.done(entry, kept.picture, kept.blob);
      else entry.cell.fail("It was not made.", false);
    });
  }

  /** Goes through the pictures from person A to person B. */
  slider(order, crops, all) {
    const last = all.length - 1;
    const range = el("input", { type: "range", min: 0, max: last, step: 1, value: Math.floor(last / 2), "aria-label": "From person A to person B" });
    const output = el("output", { className: "soft small" });
    const turn = () => {
      const chosen = all[Number(range.value)];
      output.textContent = chosen.label;
      range.setAttribute("aria-valuetext", chosen.label);
      for (const { cell, variant } of this.cells) {
        cell.root.classList.toggle("off", variant !== chosen);
        cell.thumb.parentElement.classList.toggle("chosen", variant === chosen);
      }
    };
    for (const { cell, method, variant } of this.cells) {
      // For the mouse; the slider does the same for everybody.
      const thumb = el("span", { "aria-hidden": "true" }, cell.thumb);
      thumb.addEventListener("click", () => {
        range.value = all.indexOf(variant);
        turn();
      });
      const group = this.groups.children[order.methods.indexOf(method)];
      const film = group.querySelector(".film") ?? el("div", { className: "film" });
      film.append(thumb);
      group.querySelector(".cells").prepend(film);
    }
    range.addEventListener("input", turn);
    turn();
    const end = (src, alt) => el("img", { src, alt, width: 48, height: 48 });
    return el("div", { className: "slider" },
      end(crops[0], "Person A"), el("div", {}, range, output), end(crops[1], "Person B"));
  }
}

function meaning(infos) {
  return el("details", {}, el("summary", {}, "What the scores mean"),
    el("dl", { className: "meaning" }, ...infos.flatMap((info) => [
      el("dt", {}, info.name in SHOWN ? `${SHOWN[info.name]} (${info.title})` : info.title),
      el("dd", {}, [info.note, info.network].filter(Boolean).join(". ")),
    ])));
}

function code(order) {
  const block = (name, text) => {
    const button = el("button", { type: "button" }, `Copy ${name}`);
    const pre = el("pre", { tabIndex: 0, role: "group", "aria-label": name }, text);
    const said = el("span", { role: "status", className: "soft small" });
    button.addEventListener("click", async () => {
      const copied = await copy(text);
      if (!copied) getSelection().selectAllChildren(pre);
      said.textContent = copied ? "Copied" : "Selected: copy it with Control and C";
    });
    return el("div", { className: "snippet", "data-code": name }, pre, el("div", { className: "line" }, button, said));
  };
  return el("details", { className: "code" }, el("summary", {}, "Repeat from code"),
    block("curl", curl(order)), block("Python", pythonCode(order)));
}
