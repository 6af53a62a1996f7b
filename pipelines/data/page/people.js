// Choosing one person: a photo, a camera, a dropped file, or a sample; shows the face that was found.

import { addIdentity, removeIdentity } from "./api.js";
import { el, fileUrl, tell } from "./dom.js";

// Named, so that a phone converts its own format when it hands a photo over.
const TYPES = "image/jpeg,image/png,image/webp";

let pickers = 0;

/**
 * One person of the form.
 *   root      the element
 *   source    {photo: File} or {sample: name}, with `face`; null while nobody is chosen
 *   identity  the service's answer, null while there is none
 *   crop      address of the aligned face
 */
export class PersonPicker {
  constructor(heading, samples, changed) {
    pickers += 1;
    const id = `person-${pickers}`;
    this.changed = changed;
    this.samples = new Map(samples.map(({ name, png }) => [name, png]));
    this.source = null;
    this.identity = null;
    this.crop = null;

    this.file = el("input", { type: "file", accept: TYPES, id: `${id}-file`, className: "hidden" });
    this.camera = el("input", { type: "file", accept: TYPES, id: `${id}-camera`, className: "hidden" });
    // As an attribute: the property is not in every browser.
    this.camera.setAttribute("capture", "user");
    for (const input of [this.file, this.camera]) {
      input.addEventListener("change", () => {
        if (input.files.length) this.choose({ photo: input.files[0] });
        input.value = "";
      });
    }
    this.strip = el("div", { className: "strip", role: "group", "aria-label": "Sample people" });
    for (const { name, png } of samples) {
      const picture = el("img", { src: `data:image/png;base64,${png}`, alt: "", width: 44, height: 44 });
      const button = el("button", { type: "button", "data-sample": name, "aria-label": `Sample ${name}` }, picture);
      button.addEventListener("click", () => this.choose({ sample: name }));
      this.strip.append(button);
    }
    this.drop = el("div", { className: "drop" },
      el("div", { className: "line" },
        this.file, el("label", { className: "button", for: this.file.id }, "Choose a photo"),
        this.camera, el("label", { className: "button touch", for: this.camera.id }, "Take a photo")),
      el("p", { className: "soft pointer" }, "or drop one here"),
      el("p", { className: "soft small" }, "or someone who does not exist"),
      this.strip);
    this.card = el("div", { className: "card", hidden: true });
    this.error = el("p", { className: "error", role: "alert", hidden: true });
    this.face = el("select", { id: `${id}-face` },
      el("option", { value: "largest" }, "The largest"),
      ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => el("option", { value: String(n) }, `Number ${n + 1} from the left`)));
    const use = el("button", { type: "button" }, "Use this face");
    use.addEventListener("click", () => this.choose({ ...this.source, face: this.face.value }));
    this.which = el("div", { className: "line", hidden: true },
      el("label", { for: this.face.id, className: "hidden" }, "Which face"), this.face, use);
    this.legend = el("legend", {}, heading);
    this.root = el("fieldset", { className: "person field" },
      this.legend, this.drop, this.card, this.error, this.which);
    this.acceptDrops();
  }

  acceptDrops() {
    const over = (event) => {
      event.preventDefault();
      this.root.classList.toggle("over", event.type === "dragover");
    };
    this.root.addEventListener("dragover", over);
    this.root.addEventListener("dragleave", over);
    this.root.addEventListener("drop", (event) => {
      over(event);
      const photo = event.dataTransfer.files[0];
      if (photo) this.choose({ photo });
    });
  }

  /** Embeds a person and shows the face, or says why not. */
  async choose(source) {
    this.forget();
    this.source = { face: "single", ...source };
    const photo = source.photo
      ? URL.createObjectURL(source.photo) : fileUrl(this.samples.get(source.sample), "image/png");
    this.root.setAttribute("aria-busy", "true");
    tell(this.error, "");
    this.which.hidden = true;
    const mine = this.source;
    try {
      const identity = await this.embed();
      if (mine !== this.source) return;
      this.identity = identity;
      await this.show(photo);
    } catch (error) {
      if (mine !== this.source) return;
      tell(this.error, error.message);
      this.which.hidden = error.code !== "several_faces" && error.code !== "face_index";
      URL.revokeObjectURL(photo);
    } finally {
      if (mine === this.source) this.root.removeAttribute("aria-busy");
    }
    this.changed();
  }

  embed() {
    return addIdentity(this.source.photo ?? null, this.source.sample ?? null, this.source.face);
  }

  /** Embeds the same person again, after the service has forgotten them; false if it is another now. */
  async renew(source) {
    if (this.source !== source) return false;
    this.identity = await this.embed();
    return this.source === source;
  }

  async show(photo) {
    const [found] = this.identity.faces;
    const image = el("img", { src: photo, alt: "The photo" });
    // The service reads formats that not every browser shows; the face is shown all the same.
    const shown = await image.decode().then(() => true, () => false);
    const { naturalWidth: width, naturalHeight: height } = image;
    const box = el("span", { className: "box" });
    const [left, top, right, bottom] = found.bbox.map((value, n) =>
      Math.min(Math.max(value / (n % 2 ? height : width), 0), 1) * 100);
    Object.assign(box.style, {
      left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
    });
    this.crop = `data:image/png;base64,${found.crop_png}`;
    const change = el("button", { type: "button", "aria-label": "Choose someone else" }, "Change");
    change.addEventListener("click", () => {
      this.forget();
      this.changed();
      this.file.focus();
    });
    this.card.replaceChildren(
      el("figure", { hidden: !shown }, el("div", { className: "boxed" }, image, box), el("figcaption", {}, "Photo")),
      el("figure", {}, el("img", { className: "crop", src: this.crop, alt: "The aligned face" }),
        el("figcaption", {}, "Face")),
      el("div", { className: "found" },
        el("p", { role: "status" }, "Face found"),
        el("p", { className: "soft small" }, `detector ${found.score.toFixed(2)}`), change));
    this.card.hidden = false;
    this.drop.hidden = true;
    change.focus();
  }

  /** Back to the choice; the service forgets the person. */
  forget() {
    if (this.identity) removeIdentity(this.identity.identity_id).catch(() => {});
    const shown = this.card.querySelector(".boxed img");
    if (shown) URL.revokeObjectURL(shown.src);
    this.source = this.identity = this.crop = null;
    this.card.replaceChildren();
    this.card.hidden = true;
    this.drop.hidden = false;
  }
}
