// Small helpers for elements; text is always set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`data-`, `aria-`, `for` and `role` as attributes) and children. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(data-|aria-|for$|role$)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** "raw_photo" -> "Raw photo". */
export const title = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** Shows a sentence in an element that is hidden while it has none. */
export function tell(node, sentence) {
  node.textContent = sentence;
  node.hidden = !sentence;
}

/** Base64 of a file -> a Blob. */
export function fileBlob(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
}

/** Base64 of a file -> an address for `img`; let go with URL.revokeObjectURL. */
export const fileUrl = (base64, type) => URL.createObjectURL(fileBlob(base64, type));

/** A File as a data: address, which the service takes in the place of its base64. */
export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Copies a text; false where the browser does not let a page do so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
