// The selected filters and their representation in the address, so that a view can be linked.

const DEFAULTS = {
  q: "", category: "", outcomes: null, min: null, max: null, sort: "run", page: 1, card: null,
  theme: "auto",
};
const state = { ...DEFAULTS };

function toNumber(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : null;
}

/** The address of a state: the values that differ from the defaults, after ``#?``. */
function toHash(wanted) {
  const fields = new URLSearchParams();
  for (const [name, value] of Object.entries(wanted)) {
    if (value !== DEFAULTS[name]) fields.set(name, String(value));
  }
  return String(fields) ? `#?${fields}` : "";
}

/** The state in an address; invalid values are ignored. */
function fromHash(hash) {
  const fields = new URLSearchParams(hash.startsWith("#?") ? hash.slice(2) : "");
  return {
    ...DEFAULTS,
    ...Object.fromEntries([...fields].filter(([name]) => Object.hasOwn(DEFAULTS, name))),
    outcomes: fields.has("outcomes") ? fields.get("outcomes").split(",") : null,
    min: toNumber(fields.get("min")),
    max: toNumber(fields.get("max")),
    page: Math.max(1, Math.trunc(toNumber(fields.get("page")) ?? 1)),
  };
}

/** Change the state and put it into the address, without a step in the history. */
function remember(changes) {
  Object.assign(state, changes);
  const hash = toHash(state);
  if (!hash && !location.hash.startsWith("#?")) return;
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch {
    // Browsers refuse it if it is too frequent, or at some addresses; the page works without.
  }
}
