"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const samples = data.samples;
  const byId = new Map(samples.map((sample) => [sample.sample_id, sample]));
  const PAGE = 60, GRID_ROWS = 12;
  const FIELDS = { identity_id: "Person", method: "Method", style: "Style", prompt_id: "Prompt", seed: "Seed" };

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  // A line may break after an underscore, and the name still copies as it is.
  const breakable = (text) => String(text).split(/(?<=_)/).flatMap((part) => [part, document.createElement("wbr")]);
  const distinct = (field) => [...new Set(samples.map((sample) => sample[field]))];
  const format = (metric, value) => {
    if (value === null || value === undefined) return "NaN";
    const unit = data.metrics[metric] && data.metrics[metric].unit;
    const text = unit === "share" ? (100 * value).toFixed(1) + " %" : unit === "degrees" ? value.toFixed(1) + "°" : value.toFixed(3);
    return text.replace("-", "−");
  };
  const title = (metric) => (data.metrics[metric] ? data.metrics[metric].title : metric);
  const describe = (sample) =>
    `${sample.identity_id}, ${sample.method}, ${sample.style}, ${sample.prompt_id}, seed ${sample.seed}`;

  const image = (sample) => make("img", {
    loading: "lazy", decoding: "async", alt: describe(sample), width: sample.width, height: sample.height, src: sample.src,
  });
  const reference = (identity) =>
    (data.references[identity] || []).map((src) => make("img", { src, alt: `reference of ${identity}` }));
  const select = (label, options, value, change) => {
    const node = make("select", { onchange: () => change(node.value) });
    for (const [key, text] of options) node.append(make("option", { value: key, textContent: text }));
    if (value !== undefined) node.value = value;
    return make("label", {}, label, node);
  };

  // ---- one picture, large
  const viewer = document.getElementById("viewer");
  let around = [], position = 0;
  const draw = () => {
    const sample = around[position];
    document.getElementById("viewer-title").textContent = describe(sample);
    const images = make("div", { className: "viewer-images" });
    for (const crop of reference(sample.identity_id)) {
      images.append(make("figure", { className: "reference" }, crop, make("figcaption", { textContent: "reference" })));
    }
    images.append(make("figure", {}, make("img", { src: sample.src, alt: describe(sample) }), make("figcaption", { textContent: "picture" })));
    const list = make("dl");
    const row = (name, value) => list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
    row("Prompt", data.prompts[sample.prompt]);
    for (const metric of Object.keys(sample.scores)) row(title(metric), format(metric, sample.scores[metric]));
    row("sample_id", sample.sample_id);
    document.getElementById("viewer-body").replaceChildren(images, list);
    document.getElementById("viewer-back").disabled = position === 0;
    document.getElementById("viewer-next").disabled = position === around.length - 1;
  };
  const move = (step) => {
    const target = position + step;
    if (target >= 0 && target < around.length) { position = target; draw(); }
  };
  const open = (list, sample) => {
    around = list;
    position = list.indexOf(sample);
    draw();
    viewer.showModal();
  };
  document.getElementById("viewer-close").onclick = () => viewer.close();
  document.getElementById("viewer-back").onclick = () => move(-1);
  document.getElementById("viewer-next").onclick = () => move(1);
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  const tile = (sample, list, metric) => {
    const node = make("button", { className: "tile", type: "button", onclick: () => open(list, sample) }, image(sample));
    if (metric) node.append(make("strong", { textContent: format(metric, sample.scores[metric]) }));
    for (const field of ["identity_id", "method", "style"]) node.append(make("span", { textContent: sample[field] }));
    return node;
  };

  // ---- grid: people downwards
  const grid = { across: distinct("method").length > 1 ? "method" : "style", rows: GRID_ROWS, fixed: {} };
  const drawGrid = () => {
    const others = ["method", "style", "prompt_id", "seed"].filter((field) => field !== grid.across);
    const controls = document.getElementById("grid-controls");
    controls.replaceChildren(select("Columns", [["method", "methods"], ["style", "styles"], ["prompt_id", "prompts"], ["seed", "seeds"]],
      grid.across, (value) => { grid.across = value; drawGrid(); document.querySelector("#grid-controls select").focus(); }));
    for (const field of others) {
      const values = distinct(field);
      if (!values.includes(grid.fixed[field])) grid.fixed[field] = values[0];
      if (values.length > 1) {
        controls.append(select(FIELDS[field], values.map((value) => [value, value]), grid.fixed[field],
          (value) => { grid.fixed[field] = value; drawTable(others); }));
      }
    }
    drawTable(others);
  };
  const drawTable = (others) => {
    const columns = distinct(grid.across), people = distinct("identity_id");
    const chosen = samples.filter((sample) => others.every((field) => sample[field] === grid.fixed[field]));
    const at = new Map(chosen.map((sample) => [sample.identity_id + "\n" + sample[grid.across], sample]));
    const head = make("tr", {}, make("th", { scope: "col", textContent: "reference" }));
    for (const column of columns) head.append(make("th", { scope: "col" }, ...breakable(column)));
    const body = make("tbody");
    for (const person of people.slice(0, grid.rows)) {
      const line = make("tr", {}, make("th", { scope: "row" }, ...reference(person).slice(0, 1), ...breakable(person)));
      for (const column of columns) {
        const sample = at.get(person + "\n" + column);
        const content = sample
          ? make("button", { type: "button", onclick: () => open(chosen, sample) }, image(sample))
          : make("div", { className: "gap", textContent: "none" });
        line.append(make("td", { className: "cell" }, content));
      }
      body.append(line);
    }
    const where = document.getElementById("grid-table");
    where.replaceChildren(make("table", {}, make("thead", {}, head), body));
    if (people.length > grid.rows) {
      where.append(make("button", { type: "button", textContent: `Show ${Math.min(GRID_ROWS, people.length - grid.rows)} more people`,
        onclick: () => { grid.rows += GRID_ROWS; drawTable(others); } }));
    }
  };

  // ---- list: the pictures behind a number
  const metrics = Object.keys(data.metrics);
  const start = metrics.includes("identity_facenet") ? "identity_facenet" : metrics[0] || "";
  const list = { filter: {}, metric: start, rising: true, count: PAGE };
  const matching = () => {
    const found = samples.filter((sample) => Object.entries(list.filter).every(([field, value]) => !value || sample[field] === value));
    if (!list.metric) return found;
    const sign = list.rising ? 1 : -1;
    const key = (sample) => { const value = sample.scores[list.metric]; return value === null || value === undefined ? Infinity : sign * value; };
    return found.map((sample) => [key(sample), sample]).sort((a, b) => (a[0] === b[0] ? 0 : a[0] - b[0])).map((pair) => pair[1]);
  };
  const drawControls = () => {
    const controls = document.getElementById("list-controls");
    controls.replaceChildren();
    for (const field of ["method", "style", "identity_id", "prompt_id"]) {
      controls.append(select(FIELDS[field], [["", "all"], ...distinct(field).map((value) => [value, value])], list.filter[field] || "",
        (value) => { list.filter[field] = value; list.count = PAGE; drawList(); }));
    }
    if (metrics.length) {
      controls.append(select("Score", metrics.map((name) => [name, title(name)]), list.metric, (value) => { list.metric = value; drawList(); }));
      controls.append(select("Order", [["rising", "lowest first"], ["falling", "highest first"]], list.rising ? "rising" : "falling",
        (value) => { list.rising = value === "rising"; drawList(); }));
    }
  };
  const drawList = () => {
    const found = matching(), shown = found.slice(0, list.count);
    document.getElementById("list-count").textContent = samples.length ? `${found.length} pictures in this page, ${shown.length} shown` : "This run has no pictures.";
    document.getElementById("list").replaceChildren(...shown.map((sample) => tile(sample, found, list.metric)));
    document.getElementById("list-more").hidden = shown.length === found.length;
  };
  document.getElementById("list-more").onclick = () => { list.count += PAGE; drawList(); };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.number");
    if (!link) return;
    list.filter = { method: link.dataset.method || "", style: link.dataset.style || "", identity_id: link.dataset.identity || "" };
    list.metric = link.dataset.metric;
    list.rising = true;
    list.count = PAGE;
    drawControls();
    drawList();
    document.getElementById("pictures").focus({ preventScroll: true });
  });

  for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  if (samples.length) drawGrid();
  drawControls();
  drawList();
  for (const node of document.querySelectorAll("[data-samples]")) {
    const found = node.dataset.samples.split(" ").map((id) => byId.get(id)).filter(Boolean);
    node.append(...found.map((sample) => tile(sample, found, node.dataset.metric)));
  }
})();
