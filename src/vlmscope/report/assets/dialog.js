// The dialog with all details of one card.

function showFacts(list, card) {
  const answer = card.answer === "" ? "(empty)" : card.answer;
  const positions = Object.entries(card.positions);
  const facts = [
    ["answer", answer ?? "none: the run stopped after the prefill"], ["truth", card.truth],
    ["evidence", card.evidence], ["scorer", card.scorer], ["category", card.category],
    ["id", card.id], [card.num_images > 1 ? "images" : "image", card.image_id || "none"],
    ["ended by", card.finish_reason], ["prompt", `${count(card.num_prompt_tokens)} tokens`],
    ...positions.map(([name, at]) => [name.replaceAll("_", " "), `position ${count(at)}`]),
  ];
  list.replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => {
    const row = element("div");
    row.append(element("dt", "", name), Object.assign(element("dd", "", value), { dir: "auto" }));
    return row;
  }));
}

function tokenRow(cells) {
  const row = element("tr");
  row.append(...cells.map(([text, className]) => element("td", className, text)));
  return row;
}

/** The answer's tokens, shaded by entropy, or else by probability, and the same as a table. */
function showAnswer(root, card) {
  const spans = [];
  const rows = [];
  card.answer_tokens.forEach(([text, logprob, entropy], index) => {
    const probability = logprob === null ? 0 : Math.exp(logprob);
    const span = element("bdi", "answer-token", text);
    span.style.setProperty("--doubt", (1 - Math.exp(-(entropy ?? -logprob))).toFixed(3));
    span.title = `log-probability ${number(logprob, 3)}, entropy ${number(entropy, 3)} nats`;
    spans.push(span, " ");
    rows.push(tokenRow([
      [count(card.num_prompt_tokens + index), "number"], [text, "token-cell"],
      ...[logprob, probability, entropy].map((value) => [number(value, 3), "number"]),
    ]));
  });
  slot(root, "answer-part").hidden = spans.length === 0;
  slot(root, "answer-tokens").replaceChildren(...spans);
  slot(root, "answer-rows").replaceChildren(...rows);
  const more = card.answer_tokens_left_out;
  setText(root, "left-out", more ? `${count(more)} further tokens are left out.` : "");
}

function showFirstTokens(root, card) {
  const rows = card.first_tokens.map(([text, probability]) => {
    const row = tokenRow([[text, "token-cell"], [number(probability, 3), "number"]]);
    const cell = element("td", "graphic");
    const bar = element("span", "bar");
    bar.style.inlineSize = `${100 * (probability ?? 0)}%`;
    cell.append(bar);
    row.append(cell);
    return row;
  });
  slot(root, "first-part").hidden = rows.length === 0;
  slot(root, "first-rows").replaceChildren(...rows);
}

/** The logit lens at the chosen position: of each layer the likeliest tokens. */
function showLens(root, card, { layers, texts }) {
  const choice = slot(root, "lens-position");
  if (!choice) return;
  const names = Object.keys(card.lens);
  const kept = names.includes(choice.value) ? choice.value : names.at(-1);
  choice.replaceChildren(...names.map((name) => new Option(name, name, false, name === kept)));
  choice.onchange = () => slot(root, "lens-rows").replaceChildren(...layers.map((layer, index) => {
    const [row, cell] = [element("tr"), element("td")];
    for (const [text, probability] of card.lens[choice.value]?.[index] ?? []) {
      const pair = element("span", "lens-pair");
      pair.style.setProperty("--share", probability);
      pair.append(element("bdi", "lens-token", texts[text]), ` ${number(probability, 2)}`);
      cell.append(pair, " ");
    }
    row.append(element("th", "number", layer), cell);
    return row;
  }));
  choice.onchange();
  slot(root, "lens-part").hidden = names.length === 0;
}

/** Fill the dialog with the card at an index of the selected ones. */
function fillDialog(dialog, chosen, place, { images, lens, attention }) {
  const card = chosen[place];
  showImages(dialog, card, images);
  showVerdict(dialog, card);
  setText(dialog, "question", card.question);
  setText(dialog, "place", `${count(place + 1)} of ${count(chosen.length)}`);
  showFacts(slot(dialog, "facts"), card);
  showAnswer(dialog, card);
  showFirstTokens(dialog, card);
  showLens(dialog, card, lens);
  showMaps(dialog, card, attention);
  for (const button of dialog.querySelectorAll("[data-step]")) {
    const target = place + Number(button.dataset.step);
    button.setAttribute("aria-disabled", String(target < 0 || target >= chosen.length));
  }
  dialog.querySelector(".dialog-body").scrollTop = 0;
}

/** Connect the dialog's keys and buttons; ``step`` moves, ``closed`` is called after closing. */
function startDialog(dialog, step, closed) {
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog || button?.hasAttribute("data-close")) dialog.close();
    else if (button?.dataset.step) step(Number(button.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.matches("select, input")) return; // its own keys
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  dialog.addEventListener("close", closed);
}
