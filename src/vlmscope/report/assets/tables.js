// Tables that are sorted by clicking a heading: best first, reversed, original order.

const NEXT = {
  number: { none: "descending", descending: "ascending", ascending: "none" },
  text: { none: "ascending", ascending: "descending", descending: "none" },
};
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** Compare two cells; cells without a value are always last. */
function compareCells(a, b, kind, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const sign = direction === "ascending" ? 1 : -1;
  return sign * (kind === "number" ? Number(a) - Number(b) : collator.compare(a, b));
}

function sortTable(table, heading, rows) {
  const direction = NEXT[heading.dataset.sort][heading.getAttribute("aria-sort") ?? "none"];
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  if (direction !== "none") heading.setAttribute("aria-sort", direction);
  const value = (row) => row.cells[heading.cellIndex].dataset.value ?? "";
  const order = (a, b) => compareCells(value(a), value(b), heading.dataset.sort, direction);
  table.tBodies[0].append(...(direction === "none" ? rows : [...rows].sort(order)));
}

/** Mark boxes that are narrower than their table, so that a hint can be shown. */
function startScrolls() {
  const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    target.classList.toggle("scrolls", target.scrollWidth > target.clientWidth + 1);
  }));
  for (const box of document.querySelectorAll(".scroll")) observer.observe(box);
}

function startTables() {
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const rows = [...table.tBodies[0].rows];
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      const button = element("button", "sort");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortTable(table, heading, rows));
      heading.append(button);
    }
  }
}
