"use strict";
(() => { // the drawing library has taken the short names outside
document.documentElement.classList.add("js");

function made(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

// -- one class of the curves brought forward --------------------------------------------------------
for (const pick of document.querySelectorAll(".pick")) {
  const select = pick.querySelector("select");
  pick.hidden = false;
  select.addEventListener("change", () => {
    for (const name of select.dataset.charts.split(" ")) {
      if (views[name]) views[name].signal("shown", Number(select.value)).runAsync();
    }
  });
}

// -- a closer look at an answer ---------------------------------------------------------------------
const look = document.getElementById("look");
const items = Array.from(document.querySelectorAll("[data-look]"));
let at = 0;
let wanted = matchMedia("(max-width: 40rem)").matches ? "picture" : "all";

function figureOf(item) {
  const small = item.querySelector(".open img");
  const figure = made("figure", { "data-view": "picture" });
  if (small) {
    const size = { width: small.getAttribute("width"), height: small.getAttribute("height") };
    figure.append(made("img", { src: small.src, alt: small.alt, class: small.className, ...size }));
  } else {
    figure.append(made("div", { class: "noimage" }, "no picture"));
  }
  figure.append(made("figcaption", {}, "The picture"));
  return figure;
}

function choose(view) {
  const figures = Array.from(look.querySelectorAll(".look-body figure"));
  const names = figures.map((figure) => figure.dataset.view);
  const shown = names.includes(view) || view === "all" ? view : "all";
  for (const figure of figures) figure.hidden = shown !== "all" && figure.dataset.view !== shown;
  for (const button of look.querySelectorAll(".look-views button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === shown));
  }
}

function show(place) {
  at = (place + items.length) % items.length;
  const item = items[at];
  const facts = item.querySelector(".answer").cloneNode(true);
  const looks = facts.querySelector(".looks") || made("div", { class: "looks" });
  looks.prepend(figureOf(item));
  facts.prepend(looks);
  look.querySelector(".look-body").replaceChildren(facts);
  const bar = look.querySelector(".look-views");
  const held = bar.contains(document.activeElement);
  const figures = Array.from(looks.querySelectorAll("figure"));
  const views = figures.map((one) => [one.dataset.view, one.querySelector("figcaption").textContent]);
  bar.replaceChildren();
  bar.hidden = views.length < 2;
  for (const [view, title] of [["all", "Side by side"], ...views]) {
    const button = made("button", { type: "button", "data-view": view }, title);
    button.addEventListener("click", () => { wanted = view; choose(view); });
    bar.append(button);
  }
  choose(wanted);
  // The keys go on working when the button that they were on has been made anew.
  if (held) look.querySelector(bar.hidden ? "[data-do=on]" : ".look-views [aria-pressed=true]").focus();
  const title = look.querySelector("#look-title");
  title.replaceChildren(made("bdi", {}, item.querySelector(".file").textContent));
  look.querySelector("#look-place").textContent = `${at + 1} of ${items.length}`;
}

if (look && items.length) {
  items.forEach((item, place) => {
    item.querySelector(".open").addEventListener("click", () => { show(place); look.showModal(); });
  });
  look.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(at + step);
  });
  look.addEventListener("click", (event) => {
    const todo = event.target.closest("[data-do]");
    if (event.target === look || (todo && todo.dataset.do === "close")) look.close();
    else if (todo) show(at + (todo.dataset.do === "on" ? 1 : -1));
  });
  look.addEventListener("close", () => {
    const folded = items[at].closest("details");
    if (folded) folded.open = true;
    items[at].querySelector(".open").focus();
  });
}

// -- the map: the image under the pointer, or found with the arrow keys -----------------------------
function walkMap(box, view) {
  const { classes, points } = stored("map-points");
  const ring = box.parentElement.querySelector(".ring");
  const card = box.parentElement.querySelector(".card");
  const NEAR_PX = 16;
  let current = -1;

  // Where a point lies, in px from the corner of the map.
  function spot([x, y]) {
    const svg = box.querySelector("svg").getBoundingClientRect();
    const frame = box.parentElement.getBoundingClientRect();
    const [left, top] = view.origin();
    const padding = view.padding();
    return [
      svg.left - frame.left + padding.left + left + view.scale("x")(x),
      svg.top - frame.top + padding.top + top + view.scale("y")(y),
    ];
  }

  function hide() {
    current = -1;
    ring.hidden = card.hidden = true;
  }

  function point(i) {
    if (i === current) return;
    current = i;
    const [, , path, label, predicted, wrong, source, split] = points[i];
    const [x, y] = spot(points[i]);
    const wide = box.parentElement.clientWidth;
    ring.hidden = card.hidden = false;
    ring.style.left = x + "px";
    ring.style.top = y + "px";
    card.replaceChildren();
    if (source) card.append(made("img", { src: source, alt: path, width: 96, height: 96 }));
    const text = made("p");
    const name = (k) => { const one = made("strong"); one.append(made("bdi", {}, classes[k].trim() || "(no name)")); return one; };
    text.append(name(label));
    if (wrong) text.append(", answered ", name(predicted));
    if (split) text.append(` · ${split}`);
    text.append(made("bdi", { class: "file" }, path));
    card.append(text);
    card.style.left = Math.max(0, Math.min(wide - card.offsetWidth, x < wide / 2 ? x + 16 : x - 16 - card.offsetWidth)) + "px";
    card.style.top = Math.max(0, y - card.offsetHeight / 2) + "px";
  }

  function nearest(wantedX, wantedY, most) {
    let found = -1;
    let least = most;
    points.forEach((one, i) => {
      const [x, y] = spot(one);
      const far = Math.hypot(x - wantedX, y - wantedY);
      if (far < least) { least = far; found = i; }
    });
    return found;
  }

  // The next image in a direction: near, and not too far to the side.
  function beside(dx, dy) {
    const from = points[current];
    let found = current;
    let least = Infinity;
    points.forEach((one, i) => {
      const along = (one[0] - from[0]) * dx + (one[1] - from[1]) * dy;
      const aside = Math.abs((one[0] - from[0]) * dy) + Math.abs((one[1] - from[1]) * dx);
      if (i === current || along <= 0 || aside > along) return;
      const cost = along + 2 * aside;
      if (cost < least) { least = cost; found = i; }
    });
    return found;
  }

  function nextWrong() {
    for (let step = 1; step <= points.length; step += 1) {
      const i = (Math.max(current, -1) + step + points.length) % points.length;
      if (points[i][5]) return i;
    }
    return current;
  }

  function underPointer(event) {
    const frame = box.parentElement.getBoundingClientRect();
    const i = nearest(event.clientX - frame.left, event.clientY - frame.top, NEAR_PX);
    if (i >= 0) point(i); else hide();
  }

  box.addEventListener("pointermove", underPointer);
  box.addEventListener("pointerdown", underPointer);
  box.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  box.addEventListener("blur", hide);
  view.addResizeListener(hide);
  box.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Escape") { hide(); return; }
    const known = way || ["w", "W", "Home"].includes(event.key);
    if (!known || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.key === "w" || event.key === "W") point(nextWrong());
    else if (!way || current < 0) point(nearest(box.clientWidth / 2, box.clientWidth / 2, Infinity));
    else point(beside(...way));
  });
}

drawn.then(() => {
  const box = document.querySelector("[data-chart=map]");
  if (box && views.map) walkMap(box, views.map);
});
})();
