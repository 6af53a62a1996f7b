// Pictures as they are made: a run holds one group a method, a group one cell a picture.

import { copy, el, fileUrl, title } from "./dom.js";
import { curl, pythonCode } from "./snippets.js";

// Beside every picture; all other scores are one click away.
const SHOWN = { identity_facenet: "Identity", text_score: "Text" };

/** One picture: waits, shows its steps and previews, then itself and its scores, or an error. */
export class Cell {
  constructor(label, infos) {
    this.infos = infos;
    this.url = null;
    this.image = el("img", { alt: "", hidden: true });
    this.thumb = el("img", { alt: "" });
    this.bar = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${label}` });
    this.words = el("p", { className: "step" }, "Waiting");
    this.wait = el("div", { className: "wait" }, this.words, this.bar);
    this.frame = el("div", { className: "frame" }, this.image, this.wait);
    this.below = el("div", { className: "below" });
    this.label = label;
    this.root = el("figure", { className: "cell" },
      this.frame, el("figcaption", {}, el("p", { className: "label" }, label), this.below));
  }

  on(name, data) {
    if (name === "queued") this.words.textContent = "In the queue";
    if (name === "waiting") this.words.textContent = `The service is full: again in ${data.seconds} s`;
    if (name === "step") {
      this.words.textContent = `Step ${data.step} of ${data.steps}`;
      Object.assign(this.bar, { max: data.steps, value: data.step });
    }
    if (name === "preview") {
      this.show(fileUrl(data.image, ""), "");
      this.frame.classList.add("unfinished");
    }
  }

  show(url, alt) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = url;
    Object.assign(this.image, { src: url, alt, hidden: false });
    this.thumb.src = url;
  }

  done(picture) {
    this.frame.classList.remove("unfinished");
    this.wait.remove();
    this.show(fileUrl(picture.data, `image/${picture.format}`), `${this.label}, AI-generated`);
    const rows = Object.entries(SHOWN).map(([name, short]) => this.score(name, short, picture.scores[name]));
    const others = this.infos.filter(({ name }) => !(name in SHOWN));
    this.below.append(
      el("dl", { className: "scores" }, ...rows.flat()),
      el("details", {}, el("summary", {}, "More"),
        el("dl", { className: "others" }, ...others.flatMap((info) => [
          el("dt", { title: info.note }, info.title),
          el("dd", {}, number(picture.scores[info.name], info.unit)),
        ])),
        el("p", { className: "small soft" }, `${picture.seconds.toFixed(1)} s with its batch`),
        el("a", { href: this.url, download: `${picture.sample_id}.${picture.format}`, className: "button" }, "Save picture")));
  }

  score(name, short, value) {
    const info = this.infos.find((one) => one.name === name);
    const bar = el("span", { className: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--value", Math.min(Math.max(value ?? 0, 0), 1));
    return [
      el("dt", { title: info ? `${info.title}: ${info.note}` : name }, short),
      el("dd", {}, bar, el("span", { className: "value" }, name.startsWith("identity") && value === null
        ? "no face" : number(value, "cosine"))),
    ];
  }

  fail(sentence) {
    this.frame.classList.remove("unfinished");
    this.image.hidden = true;
    this.wait.replaceChildren(el("p", { className: "error" }, sentence));
  }
}

function number(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${Math.round(value * 100)} %`;
  return unit === "faces" ? String(value) : value.toFixed(2);
}

/** What was asked for at once, with its pictures and the code that makes them again. */
export class Run {
  constructor(order, methods, infos, crops) {
    this.cells = [];
    const id = `run-${Date.now()}`;
    const meta = [
      order.mode === "sheet" ? "All styles" : title(order.style || "no style"),
      `seed ${order.seed}`,
      `${order.steps} steps`,
    ].join(" · ");
    this.groups = el("div", { className: `groups ${order.mode}` });
    for (const method of order.methods) {
      const name = methods.find((one) => one.name === method).title;
      const cells = el("div", { className: "cells" });
      for (const variant of order.variants) {
        const cell = new Cell(`${name}${variant.label ? `, ${variant.label}` : ""}`, infos);
        // In a blend the slider says it, elsewhere the group's heading has said the method.
        cell.root.querySelector(".label").textContent = order.mode === "blend" ? "" : variant.label;
        cells.append(cell.root);
        this.cells.push({ cell, method, variant });
      }
      this.groups.append(el("div", { className: "group", role: "group", "aria-label": name }, el("h3", {}, name), cells));
    }
    this.root = el("article", { className: "panel run", "aria-labelledby": id },
      el("header", {},
        el("div", { className: "who" }, ...crops.map((src) => el("img", { src, alt: "", width: 48, height: 48 }))),
        el("div", {}, el("h2", { id }, order.prompt), el("p", { className: "soft small" }, meta))),
      order.mode === "blend" ? this.slider(order, crops) : "",
      this.groups,
      el("div", { className: "about" }, meaning(infos), code(order)));
  }

  /** Goes through the pictures from person A to person B. */
  slider(order, crops) {
    const last = order.variants.length - 1;
    const range = el("input", { type: "range", min: 0, max: last, step: 1, value: Math.floor(last / 2), "aria-label": "From person A to person B" });
    const output = el("output", { className: "soft small" });
    const turn = () => {
      const chosen = order.variants[Number(range.value)];
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
        range.value = order.variants.indexOf(variant);
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
      el("dt", {}, info.title),
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
