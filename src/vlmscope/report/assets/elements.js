"use strict";
// Small tools to fill the page. Data become text or attributes here, never markup.

function byId(id) {
  return document.getElementById(id);
}

/** The part of a template or dialog that takes a value. */
function slot(root, name) {
  return root.querySelector(`[data-slot="${name}"]`);
}

function setText(root, name, text) {
  slot(root, name).textContent = text;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value, digits) {
  return value === null ? "–" : value.toFixed(digits).replace("-", "−");
}

function count(value) {
  return value.toLocaleString("en");
}

/** Set the picture of a card or dialog; only pictures of the report, and only data. */
function showPicture(root, card, pictures) {
  const known = card.picture !== null && Object.hasOwn(pictures, card.picture);
  const source = known ? pictures[card.picture] : "";
  const shown = source.startsWith("data:image/");
  const image = slot(root, "picture");
  if (shown) image.setAttribute("src", source);
  else image.removeAttribute("src");
  image.setAttribute("alt", `picture ${card.image_id}`);
  image.hidden = !shown;
  slot(root, "no-picture").hidden = shown;
}

/** Set outcome and risk: a shape and a word, a number and a bar. */
function showVerdict(root, card) {
  const mark = root.querySelector(".badge .mark");
  mark.setAttribute("class", `mark mark-${card.label}`);
  mark.querySelector("use").setAttribute("href", `#mark-${card.label}`);
  setText(root, "outcome", card.label);
  slot(root, "risk-box").hidden = card.risk === null;
  setText(root, "risk", number(card.risk, 2));
  slot(root, "meter").style.inlineSize = `${100 * (card.risk ?? 0)}%`;
}
