// The theme (light, dark, or that of the system), and the highlight of the current section.

const THEMES = { auto: "screen and (prefers-color-scheme: dark)", light: "not all", dark: "screen" };

/** Choose the colours. Paper stays white: the dark style is for screens. */
function setTheme(name) {
  const known = Object.hasOwn(THEMES, name) ? name : "auto";
  byId("dark-style").media = THEMES[known];
  document.documentElement.style.colorScheme = { auto: "", light: "light", dark: "dark" }[known];
  for (const button of document.querySelectorAll("button[data-theme]")) {
    button.setAttribute("aria-pressed", String(button.dataset.theme === known));
  }
  return known;
}

function startThemes() {
  for (const button of document.querySelectorAll("button[data-theme]")) {
    button.addEventListener("click", () => remember({ theme: setTheme(button.dataset.theme) }));
  }
}

function startContents() {
  const all = [...document.querySelectorAll(".contents a")];
  const links = new Map(all.map((link) => [link.getAttribute("href").slice(1), link]));
  const here = new Set();  // also one that was seen before, when another has left
  const mark = (entries) => {
    for (const seen of entries) here[seen.isIntersecting ? "add" : "delete"](seen.target.id);
    const current = links.get([...links.keys()].find((id) => here.has(id)));
    if (current) all.forEach((link) => { link.ariaCurrent = link === current ? "true" : null; });
  };
  const observer = new IntersectionObserver(mark, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) observer.observe(byId(id));
}
