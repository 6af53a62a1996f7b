// Does what a reader of the report would do and writes down what they would then see.
async function probe(found) {
  await layout(found);
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
