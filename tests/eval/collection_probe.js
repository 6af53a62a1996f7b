// The page over several reports: which of its tables are cut off.
async function probe(found) {
  await layout(found);
  found.cut = all(".scroll")
    .filter((region) => region.querySelector("table") && region.scrollWidth > region.clientWidth)
    .map((region) => region.getAttribute("aria-label"));
}
