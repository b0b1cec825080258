// The gallery: cards, filters, pages, and the open card.

const PAGE = 48;

class Gallery {
  constructor(data) {
    this.cards = prepareCards(data.cards);
    this.data = data;
    this.form = byId("filters");
    this.dialog = byId("card-dialog");
    this.template = byId("card-template").content;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.filter());
    byId("gallery").addEventListener("click", (event) => this.click(event));
    startDialog(this.dialog, (by) => this.step(by), () => this.closed());
  }

  get pages() {
    return Math.max(1, Math.ceil(this.chosen.length / PAGE));
  }

  /** Show the state: filters, page and the open card. */
  restore() {
    this.fillForm();
    this.readForm();
    this.choose();
    const place = this.chosen.findIndex((card) => card.id === state.card);
    if (place >= 0) this.open(place);
    else if (this.dialog.open) this.dialog.close();
    else remember({ card: null });
  }

  fillForm() {
    for (const name of ["q", "category", "min", "max", "sort"]) {
      const field = this.form.elements.namedItem(name);
      if (field) field.value = state[name] ?? "";
      if (field?.selectedIndex === -1) field.selectedIndex = 0;
    }
    for (const box of this.form.querySelectorAll("[name=outcome]")) {
      box.checked = state.outcomes === null || state.outcomes.includes(box.value);
    }
  }

  /** Read the state from the form: values of an address that are invalid for a field are dropped. */
  readForm() {
    const text = (name) => this.form.elements.namedItem(name)?.value ?? "";
    const boxes = [...this.form.querySelectorAll("[name=outcome]")];
    const checked = boxes.filter((box) => box.checked).map((box) => box.value);
    Object.assign(state, {
      q: text("q"),
      category: text("category"),
      outcomes: checked.length === boxes.length ? null : checked,
      min: toNumber(text("min")),
      max: toNumber(text("max")),
      sort: text("sort"),
    });
  }

  filter() {
    state.page = 1;
    this.readForm();
    this.choose();
    remember({});
  }

  reset() {
    Object.assign(state, DEFAULTS, { theme: state.theme });
    this.restore();
    this.form.elements.namedItem("q").focus();
  }

  choose() {
    this.chosen = chooseCards(this.cards, state);
    this.shown = null;
    this.turn(state.page);
    byId("gallery-count").textContent = `${count(this.chosen.length)} of ${count(this.cards.length)}`;
    byId("nothing").hidden = this.chosen.length > 0;
    const filtered = toHash({ ...state, page: 1, card: null, theme: "auto" }) !== "";
    document.querySelector(".reset").hidden = !filtered || !this.chosen.length;
  }

  /** Show a page of the selected cards. */
  turn(page) {
    state.page = Math.min(Math.max(1, page), this.pages);
    if (this.shown === state.page) return;
    this.shown = state.page;
    const first = (this.shown - 1) * PAGE;
    const cards = this.chosen.slice(first, first + PAGE);
    byId("cards").replaceChildren(...cards.map((card, i) => this.cardElement(card, first + i)));
    for (const pager of document.querySelectorAll(".pager")) this.fillPager(pager);
  }

  fillPager(pager) {
    pager.hidden = this.pages === 1;
    setText(pager, "page", `page ${count(this.shown)} of ${count(this.pages)}`);
    for (const button of pager.querySelectorAll("[data-page]")) {
      button.setAttribute("aria-disabled", String(this.target(button) === this.shown));
    }
  }

  /** The target page of a button of a pager. */
  target(button) {
    const next = Math.min(state.page + 1, this.pages);
    const previous = Math.max(state.page - 1, 1);
    return { first: 1, previous, next, last: this.pages }[button.dataset.page];
  }

  cardElement(card, place) {
    const root = this.template.cloneNode(true);
    showImages(root, card, this.data.images);
    showVerdict(root, card);
    setText(root, "question", card.question || card.id);
    setText(root, "answer", card.answer === "" ? "(empty)" : card.answer ?? "");
    slot(root, "answer-box").hidden = card.answer === null;
    setText(root, "truth", card.truth);
    slot(root, "truth-box").hidden = card.truth === "";
    setText(root, "category", card.category ?? "");
    setText(root, "id", card.id);
    slot(root, "question").dataset.place = place;
    return root;
  }

  click(event) {
    const button = event.target.closest("button");
    if (button?.dataset.place) this.open(Number(button.dataset.place));
    else if (button?.dataset.page) this.turnBy(button);
    else if (button?.hasAttribute("data-reset")) this.reset();
  }

  turnBy(button) {
    this.turn(this.target(button));
    remember({});
    if (!button.closest(".gallery-bar-below")) return;
    byId("gallery-count").focus({ preventScroll: true });
    document.querySelector(".gallery-bar").scrollIntoView();
  }

  open(place) {
    fillDialog(this.dialog, this.chosen, place, this.data);
    this.place = place;
    if (!this.dialog.open) this.dialog.showModal();
    remember({ card: this.chosen[place].id });
  }

  step(by) {
    if (this.chosen[this.place + by]) this.open(this.place + by);
  }

  /** Return to the card that was last open. */
  closed() {
    this.turn(Math.floor(this.place / PAGE) + 1);
    remember({ card: null });
    byId("cards").querySelector(`[data-place="${this.place}"]`)?.focus();
  }
}
