// Starts the page in the state of its address.

function start() {
  const data = JSON.parse(byId("report-data").textContent);
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
  const gallery = data.cards.length ? new Gallery(data) : null;
  const restore = () => {
    Object.assign(state, fromHash(location.hash));
    state.theme = setTheme(state.theme);
    const named = toHash({ ...state, theme: "auto" }) !== "";
    gallery?.restore();
    if (named) byId("gallery").scrollIntoView();
  };
  startTables();
  startScrolls();
  startContents();
  startThemes();
  restore();
  addEventListener("hashchange", () => location.hash.startsWith("#?") && restore());
}

start();
