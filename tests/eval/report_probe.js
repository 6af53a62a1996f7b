// Runs inside the report: does what a reader would do and writes down what they would then see.
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => {
  problems.push("blocked " + event.blockedURI);
});
const settle = () => new Promise((done) => setTimeout(done, 20));
const all = (selector) => [...document.querySelectorAll(selector)];

async function load(images) {
  for (const image of images) image.loading = "eager";
  for (const image of images) {
    while (!image.complete) await settle();
    if (!image.naturalWidth) problems.push("broken picture " + image.alt);
  }
}

function tooWide() {
  const scrolls = ".scroll *, pre *, .skip, dialog:not([open]), dialog:not([open]) *, caption";
  return all("body *")
    .filter((node) => !node.matches(scrolls) && node.getBoundingClientRect().right > innerWidth + 1)
    .map((node) => `${node.tagName}.${node.className}`);
}

async function probe(found) {
  for (const details of all("details")) details.open = true;
  await load(document.images);
  found.width = innerWidth;
  found.page = document.documentElement.scrollWidth;
  found.wide = tooWide();
  found.images = document.images.length;
  found.grid = all("#grid-table td img").length;
  document
    .querySelector("a.number[data-method=text_only][data-style=anime][data-metric=identity_facenet]")
    .click();
  await settle();
  await load(document.images);
  found.behind = all("#list .tile").map((tile) => tile.innerText);
  found.focus = document.activeElement.id;
  document.querySelector("#list .tile").click();
  await settle();
  const viewer = document.getElementById("viewer");
  await load(viewer.querySelectorAll("img"));
  found.open = viewer.open;
  found.viewer = viewer.innerText;
  found.viewerFits =
    viewer.getBoundingClientRect().right <= innerWidth && viewer.scrollWidth <= viewer.clientWidth;
  viewer.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  found.next = document.getElementById("viewer-title").textContent;
  viewer.close();
  const columns = document.querySelector("#grid-controls select");
  columns.value = "style";
  columns.dispatchEvent(new Event("change"));
  found.columns = all("#grid-table thead th").map((cell) => cell.textContent);
  found.unreachable = all("a, button, select, summary").filter((n) => n.tabIndex < 0).length;
}

addEventListener("load", async () => {
  const found = { problems };
  try {
    await probe(found);
  } catch (error) {
    problems.push(String(error));
  }
  parent.postMessage(JSON.stringify(found), "*");
});
