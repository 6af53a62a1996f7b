// Runs inside a page: what loads and what fits. `probe` is the page's own file.
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

async function layout(found) {
  for (const details of all("details")) details.open = true;
  await load(document.images);
  found.width = innerWidth;
  found.page = document.documentElement.scrollWidth;
  found.wide = tooWide();
  found.images = document.images.length;
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
