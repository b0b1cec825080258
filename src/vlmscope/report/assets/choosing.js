// Selects and sorts the cards that are shown.

/** Add the fields for searching and sorting to the cards of the report. */
function prepareCards(cards) {
  cards.forEach((card, index) => {
    card.index = index;
    card.label = card.outcome ?? "unlabelled";
    card.searched = [card.id, card.question, card.truth, card.answer].join("\n").toLocaleLowerCase();
  });
  return cards;
}

/** Distance of the label from the risk: near 1 for a confident error of the probe. */
function surprise(card) {
  if (card.risk === null) return -1;
  if (card.label === "hallucinated") return 1 - card.risk;
  return card.label === "faithful" ? card.risk : -1;
}

const ORDERS = {
  run: () => 0,
  surprising: (a, b) => surprise(b) - surprise(a),
  riskiest: (a, b) => (b.risk ?? -1) - (a.risk ?? -1),
  safest: (a, b) => (a.risk ?? 2) - (b.risk ?? 2),
  id: (a, b) => collator.compare(a.id, b.id),
  category: (a, b) => collator.compare(a.category ?? "\uffff", b.category ?? "\uffff"),
};

function inRange(risk, min, max) {
  return (min ?? max) === null || (risk !== null && risk >= (min ?? 0) && risk <= (max ?? 1));
}

/** Cards that match the filters, sorted; equal ones keep the order of the run. */
function chooseCards(cards, wanted) {
  const words = wanted.q.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const fits = (card) =>
    (!wanted.category || card.category === wanted.category) &&
    (wanted.outcomes === null || wanted.outcomes.includes(card.label)) &&
    inRange(card.risk, wanted.min, wanted.max) &&
    words.every((word) => card.searched.includes(word));
  return cards.filter(fits).sort((a, b) => ORDERS[wanted.sort](a, b) || a.index - b.index);
}
