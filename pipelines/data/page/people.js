// Choosing one person: photos, a camera, dropped files, or a sample; shows the face that was found.

import { addIdentity, removeIdentity } from "./api.js";
import { el, fileUrl, tell } from "./dom.js";

// Named, so that a phone converts its own format when it hands a photo over.
const TYPES = "image/jpeg,image/png,image/webp";
const PHOTO_REM = { width: 7, height: 5.5 };

let pickers = 0;

/**
 * One person of the form.
 *   root      the element
 *   source    {photos: [File], names} or {sample: name}, with `face`; null while nobody is chosen
 *   identity  the service's answer, null while there is none
 *   crop      address of the aligned face
 */
export class PersonPicker {
  constructor(heading, samples, most, changed) {
    pickers += 1;
    const id = `person-${pickers}`;
    this.most = most;
    this.changed = changed;
    this.samples = new Map(samples.map(({ name, png }) => [name, png]));
    this.source = null;
    this.identity = null;
    this.crop = null;

    this.file = el("input", { type: "file", accept: TYPES, multiple: most > 1, id: `${id}-file`, className: "hidden" });
    // Without a touch screen it is neither seen nor reached.
    this.camera = el("input", { type: "file", accept: TYPES, id: `${id}-camera`, className: "hidden camera" });
    // As an attribute: the property is not in every browser.
    this.camera.setAttribute("capture", "user");
    for (const input of [this.file, this.camera]) {
      input.addEventListener("change", () => {
        if (input.files.length) this.choosePhotos([...input.files]);
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
        this.file, el("label", { className: "button", for: this.file.id }, most > 1 ? "Choose photos" : "Choose a photo"),
        this.camera, el("label", { className: "button touch", for: this.camera.id }, "Take a photo")),
      el("p", { className: "soft pointer" }, `or drop them here, 1 to ${most} of one person`),
      el("p", { className: "soft small" }, "or someone who does not exist"),
      this.strip);
    this.card = el("div", { className: "card", hidden: true });
    this.error = el("p", { className: "error", role: "alert", hidden: true });
    this.which = el("div", { className: "which", hidden: true });
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
      if (event.dataTransfer.files.length) this.choosePhotos([...event.dataTransfer.files]);
    });
  }

  choosePhotos(photos) {
    if (photos.length > this.most) {
      tell(this.error, `${photos.length} photos are too many: choose at most ${this.most}.`);
      return;
    }
    this.choose({ photos, names: photos.map((photo) => photo.name) });
  }

  /** Embeds a person and shows the face, or says why not. */
  async choose(source) {
    this.forget();
    this.source = { face: "single", ...source };
    const urls = source.photos
      ? source.photos.map((photo) => URL.createObjectURL(photo))
      : [fileUrl(this.samples.get(source.sample), "image/png")];
    this.root.setAttribute("aria-busy", "true");
    tell(this.error, "");
    this.which.hidden = true;
    const mine = this.source;
    try {
      const identity = await this.embed();
      if (mine !== this.source) return;
      this.identity = identity;
      await this.show(urls);
    } catch (error) {
      if (mine !== this.source) return;
      // Which face of which photo: with several photos the others would be asked the same.
      if (error.faces && urls.length === 1) {
        await this.offer(urls[0], error.faces);
      } else {
        tell(this.error, error.message);
        urls.forEach((url) => URL.revokeObjectURL(url));
      }
    } finally {
      if (mine === this.source) this.root.removeAttribute("aria-busy");
    }
    this.changed();
  }

  embed() {
    return addIdentity(this.source.photos ?? null, this.source.sample ?? null, this.source.face);
  }

  /** Embeds the same person again, after the service has forgotten them; false if it is another now. */
  async renew(source) {
    if (this.source !== source) return false;
    this.identity = await this.embed();
    return this.source === source;
  }

  /** The photo with a box to click around each face. */
  async offer(url, faces) {
    const source = this.source;
    const image = el("img", { src: url, alt: "The photo with its faces" });
    const shown = await image.decode().then(() => true, () => false);
    const pick = (n) => {
      URL.revokeObjectURL(url);
      this.choose({ ...source, face: String(n) });
    };
    const button = (n, ...children) => {
      const made = el("button", { type: "button", "aria-label": `Person ${n + 1} from the left` }, ...children);
      made.addEventListener("click", () => pick(n));
      return made;
    };
    const boxes = shown ? faces.map(({ bbox }, n) => {
      const box = button(n);
      box.className = "box";
      place(box, bbox, image);
      return box;
    }) : [];
    this.which.replaceChildren(
      el("p", { role: "alert" }, `The photo shows ${faces.length} people. Click the one you mean.`),
      el("div", { className: "boxed", hidden: !shown }, image, ...boxes),
      el("div", { className: "strip" }, ...faces.map(({ crop_png }, n) =>
        button(n, el("img", { src: `data:image/png;base64,${crop_png}`, alt: "", width: 56, height: 56 })))));
    this.which.hidden = false;
  }

  async show(urls) {
    const [found] = this.identity.faces;
    const image = el("img", { src: urls[0], alt: "The photo" });
    // The service reads formats that not every browser shows; the face is shown all the same.
    const shown = await image.decode().then(() => true, () => false);
    const box = el("span", { className: "box" });
    place(box, found.bbox, image);
    fit(image);
    this.crop = `data:image/png;base64,${found.crop_png}`;
    const change = el("button", { type: "button", "aria-label": "Choose someone else" }, "Change");
    change.addEventListener("click", () => {
      this.forget();
      this.changed();
      this.file.focus();
    });
    const crops = this.identity.faces.map(({ crop_png }, n) => el("img", {
      className: "crop", src: `data:image/png;base64,${crop_png}`, alt: n ? `The face in photo ${n + 1}` : "The aligned face",
    }));
    const many = urls.length > 1;
    this.card.classList.toggle("many", many);
    this.card.replaceChildren(
      el("figure", { hidden: !shown || many }, el("div", { className: "boxed" }, image, box), el("figcaption", {}, "Photo")),
      el("figure", {}, el("div", { className: "crops" }, ...crops), el("figcaption", {}, many ? `Faces of ${urls.length} photos` : "Face")),
      el("div", { className: "found" },
        el("p", { role: "status", title: `Detector's score: ${found.score.toFixed(2)}` }, many ? "Faces found" : "Face found"), change));
    urls.slice(1).forEach((url) => URL.revokeObjectURL(url));
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
    this.which.replaceChildren();
    this.which.hidden = true;
    this.drop.hidden = false;
  }
}

/** As large as the card lets it be, its sides in proportion. */
function fit(image) {
  const scale = Math.min(PHOTO_REM.width / image.naturalWidth, PHOTO_REM.height / image.naturalHeight);
  image.style.width = `${scale * image.naturalWidth}rem`;
  image.style.height = `${scale * image.naturalHeight}rem`;
}

/** Lays a box, xyxy in pixels of the picture, over it. */
function place(box, bbox, { naturalWidth: width, naturalHeight: height }) {
  const [left, top, right, bottom] = bbox.map((value, n) =>
    Math.min(Math.max(value / (n % 2 ? height : width), 0), 1) * 100);
  Object.assign(box.style, {
    left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
  });
}
