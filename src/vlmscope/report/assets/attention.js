// The attention over the images of the open card, drawn over them.

/** Draw a map in the proportions of its image, so that both are fitted into a box in the same way. */
function drawMap(canvas, { rows, columns, levels }, number, image) {
  const cells = new ImageData(columns, rows);
  const own = atob(levels).slice(number * rows * columns, (number + 1) * rows * columns);
  cells.data.set(Array.from(own, (level) => [255, 176, 0, level.charCodeAt(0)]).flat());
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(cells, 0, 0);
  [canvas.width, canvas.height] = [4 * (image?.naturalWidth || columns), 4 * (image?.naturalHeight || rows)];
  const context = Object.assign(canvas.getContext("2d"), { imageSmoothingEnabled: false });
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Put each image of a map into a box with a canvas; an image that is not available is left out. */
function mapBoxes(root, grids) {
  const images = [...root.querySelectorAll("img")];
  return grids.map(({ image }) => {
    const box = element("span", "map-image");
    if (images[image]) images[image].replaceWith(box);
    else root.append(box);
    box.append(...[images[image], element("canvas")].filter(Boolean));
    return box;
  });
}

/** Show a card's maps of the chosen tokens and layer, and their numbers. */
function showMaps(root, card, attention) {
  const [part, slider, grids] = [slot(root, "map-part"), slot(root, "map-layer"), card.attention ?? []];
  if (!part) return;
  const boxes = mapBoxes(slot(root, "images"), grids);
  part.oninput = () => {
    const [at, column] = [slider, part.querySelector(":checked")].map((field) => Number(field.value));
    slider.setAttribute("aria-valuetext", `layer ${attention.layers[at]}`);
    setText(part, "map-number", attention.layers[at]);
    const texts = grids.map((grid, index) => {
      const peak = grid.peaks[column]?.[at] ?? null;
      const [image, canvas] = ["img", "canvas"].map((name) => boxes[index].querySelector(name));
      const draw = () => drawMap(canvas, grid, column * attention.layers.length + at, image);
      boxes[index].classList.toggle("mapped", peak !== null);
      if (peak === null) return column < 0 ? "" : "The answer has no token.";
      (image?.decode() ?? Promise.resolve()).then(draw, draw);
      const name = grids.length > 1 ? `image ${index + 1}` : "the image";
      const [share, most] = [number(grid.shares[column][at], 3), number(peak, 4)];
      return `On ${name} ${share} of the attention, on its brightest cell ${most}.`;
    });
    setText(part, "map-note", texts.join(" "));
    part.hidden = texts.length === 0;
  };
  part.oninput();
}
