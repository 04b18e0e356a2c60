"use strict";
// What a name under the pointer or the focus says; the same text is each block's title.
for (const strip of document.querySelectorAll(".strip")) {
  const map = strip.querySelector("svg");
  const hint = strip.querySelector("output");
  const blocks = [...map.querySelectorAll("g")];
  const width = map.viewBox.baseVal.width;
  const height = map.viewBox.baseVal.height;
  let at = 0;
  const tell = (block) => { hint.textContent = block.querySelector("title").textContent; };
  const look = (left, part) => {
    const room = Math.min(width, Math.max(width / 4096, part));
    const from = Math.min(width - room, Math.max(0, left));
    map.setAttribute("viewBox", `${from} 0 ${room} ${height}`);
  };
  const zoom = (factor, middle) => {
    const view = map.viewBox.baseVal;
    const centre = middle ?? view.x + view.width / 2;
    const room = view.width * factor;
    look(centre - (centre - view.x) * factor, room);
  };
  const go = (to) => {
    if (blocks.length === 0) return;
    blocks[at].setAttribute("tabindex", "-1");
    at = Math.min(blocks.length - 1, Math.max(0, to));
    blocks[at].setAttribute("tabindex", "0");
    blocks[at].focus();
    const box = blocks[at].getBBox();
    const view = map.viewBox.baseVal;
    if (box.x < view.x || box.x + box.width > view.x + view.width) look(box.x + box.width / 2 - view.width / 2, view.width);
  };
  blocks.forEach((block, index) => {
    block.setAttribute("tabindex", index === 0 ? "0" : "-1");
    block.addEventListener("pointerenter", () => tell(block));
    block.addEventListener("focus", () => { at = index; tell(block); });
  });
  map.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: blocks.length - 1 };
    if (event.key in steps) { go(steps[event.key]); event.preventDefault(); }
    if (event.key === "+" || event.key === "-") {
      const box = blocks[at].getBBox();
      zoom(event.key === "+" ? 0.5 : 2, box.x + box.width / 2);
      event.preventDefault();
    }
  });
  map.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    const view = map.viewBox.baseVal;
    const place = map.getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, view.x + (event.clientX - place.left) / place.width * view.width);
    event.preventDefault();
  }, { passive: false });
  for (const [text, label, act] of [["+", "Zoom in", () => zoom(0.5)], ["−", "Zoom out", () => zoom(2)], ["all", "Show all", () => look(0, width)]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", act);
    strip.querySelector("figcaption").append(button);
  }
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => { for (const closed of document.querySelectorAll("details")) closed.open = true; });
document.documentElement.dataset.ready = "yes";
