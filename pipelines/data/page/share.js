// Settings in the page's address, after #: they are never sent to a server. Never a photo: of pictures
// their names alone, so that the page asks for them.

const NAMES = ["mode", "prompt", "style", "negative", "seed", "count", "steps", "guidance", "scale", "width", "height", "strength"];
const PICTURES = ["image", "mask_image", "control_image"];

/** An order -> the address of this page that restores its settings. */
export function shareLink(order) {
  const told = new URLSearchParams();
  for (const name of NAMES) {
    if (order[name] !== "" && order[name] !== null && order[name] !== undefined) told.set(name, order[name]);
  }
  if (order.details === false) told.set("details", "false");
  for (const field of PICTURES) {
    if (order.pictures?.[field]) told.set(field, order.pictures[field].name);
  }
  order.methods.forEach((method) => told.append("method", method));
  return `${location.href.split("#")[0]}#${told}`;
}

/** The settings of this page's address as strings, null where it has none. */
export function sharedSettings() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (!told.has("prompt")) return null;
  const settings = Object.fromEntries(NAMES.filter((name) => told.has(name)).map((name) => [name, told.get(name)]));
  const pictures = Object.fromEntries(PICTURES.filter((field) => told.has(field)).map((field) => [field, { name: told.get(field) }]));
  return { ...settings, details: told.get("details") !== "false", pictures, methods: told.getAll("method") };
}
