"use strict";
// Helpers to fill the page. Data become text or attributes here, never markup.

const byId = (id) => document.getElementById(id);

/** The part of a template or dialog that takes a value. */
const slot = (root, name) => root.querySelector(`[data-slot="${name}"]`);

const setText = (root, name, text) => Object.assign(slot(root, name), { textContent: text });

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A zero has no sign. */
function number(value, digits) {
  return value === null ? "–" : (+value.toFixed(digits) || 0).toFixed(digits).replace("-", "−");
}

const count = (value) => value.toLocaleString("en");

/** Set the images of a card or dialog; only images of the report, and only data. */
function showImages(root, card, images) {
  const all = card.num_images;
  const known = card.images.filter((key) => Object.hasOwn(images, key)).map((key) => images[key]);
  const shown = known.filter((source) => /^data:image\/(jpeg|png|webp);base64,/.test(source)).map((src, place) => {
    const alt = `image ${all > 1 ? `${place + 1} of ${all}, ` : ""}${card.image_id}`;
    return Object.assign(element("img"), { src, alt, decoding: "async" });
  });
  slot(root, "images").replaceChildren(...shown);
  const none = all === 0 ? "no image" : "image not available";
  setText(root, "no-image", shown.length ? `${shown.length} of ${all} images available` : none);
  slot(root, "no-image").hidden = shown.length > 0 && shown.length === all;
}

/** Set the outcome (a shape and a label) and the risk (a number and a bar). */
function showVerdict(root, card) {
  const mark = root.querySelector(".badge .mark");
  mark.setAttribute("class", `mark mark-${card.label}`);
  mark.querySelector("use").setAttribute("href", `#mark-${card.label}`);
  setText(root, "outcome", card.label);
  slot(root, "risk-box").hidden = card.risk === null;
  setText(root, "risk", number(card.risk, 2));
  slot(root, "meter").style.inlineSize = `${100 * (card.risk ?? 0)}%`;
}
