"use strict";
const stored = (id) => JSON.parse(document.getElementById(id).textContent);
const specs = stored("chart-specs");
const views = {};

function drawChart(box) {
  const { chart, minPx, maxPx, square } = box.dataset;
  if (minPx !== "0") box.style.minWidth = minPx + "px";
  if (maxPx !== "0") box.style.maxWidth = maxPx + "px";
  if (square) specs[chart].height = Math.round(box.clientWidth);
  return vegaEmbed(box, specs[chart], {
    mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  }).then((done) => { views[chart] = done.view; })
    .catch((error) => { box.textContent = "This chart could not be drawn: " + error.message; });
}

// What can be scrolled must be reachable by keyboard, and only that.
function reachable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth <= box.clientWidth + 1 || box.hasAttribute("tabindex")) continue;
    const caption = box.querySelector("caption");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", caption ? caption.textContent : "wide figure, can be scrolled");
  }
}

const drawn = Promise.all(Array.from(document.querySelectorAll("[data-chart]"), drawChart)).then(() => {
  reachable();
  document.addEventListener("toggle", reachable, true);
  document.body.dataset.drawn = "yes";
});
