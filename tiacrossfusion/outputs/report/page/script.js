"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const slides = all("section.slide");
  const body = document.querySelector(".ranking tbody");
  root.classList.add("js");

  // One slide is shown at a time; its id is in the address, so that the browser's back button works.
  function choose(id) {
    for (const slide of slides) slide.classList.toggle("chosen", slide.id === id);
    for (const row of body.rows) row.classList.toggle("chosen", row.dataset.slide === id);
  }
  function follow() {
    const id = location.hash.slice(1);
    const slide = slides.find((each) => each.id === id);
    if (!slide) return;
    choose(id);
    slide.scrollIntoView({ block: "start" });
  }
  window.addEventListener("hashchange", follow);
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (event.target.closest("a") || String(getSelection())) return;
    location.hash = row.dataset.slide;
  });
  for (const button of all("button.step")) {
    button.addEventListener("click", () => {
      const order = [...body.rows].map((row) => row.dataset.slide);
      const here = order.indexOf(button.closest("section").id);
      const next = order[(here + Number(button.dataset.step) + order.length) % order.length];
      location.hash = next;
    });
  }

  // Sorting: slides without a value come last in either order.
  const heads = all(".ranking th");
  function sortBy(head) {
    const column = heads.indexOf(head);
    const numbers = head.dataset.sort === "number";
    const up = head.getAttribute("aria-sort") === "descending" || (!numbers && !head.hasAttribute("aria-sort"));
    const value = (row) => row.cells[column]?.dataset.value ?? "";
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numbers ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      return up ? order : -order;
    });
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  }
  for (const head of heads) head.querySelector("button").addEventListener("click", () => sortBy(head));

  // Maps: a choice for one slide applies to all, so that slides can be compared.
  function showLayer(key) {
    for (const viewer of all("figure.viewer")) {
      const input = all("input[type=radio]", viewer).find((each) => each.value === key);
      if (!input) continue;
      input.checked = true;
      viewer.dataset.kind = input.dataset.kind;
      for (const layer of all(".layer", viewer)) layer.classList.toggle("shown", layer.dataset.layer === key);
    }
  }
  function setOpacity(percent) {
    root.style.setProperty("--opacity", percent / 100);
    for (const input of all(".opacity input")) {
      input.value = percent;
      input.nextElementSibling.value = `${percent} %`;
    }
  }
  document.addEventListener("input", (event) => {
    const input = event.target;
    if (input.closest(".segments")) showLayer(input.value);
    else if (input.closest(".opacity")) setOpacity(input.value);
    else if (input.closest(".hotspots")) {
      root.classList.toggle("no-outlines", !input.checked);
      for (const each of all(".hotspots input")) each.checked = input.checked;
    }
  });

  // Pointing at a patch of the gallery marks it on the map.
  function mark(event, on) {
    const patch = event.target.closest?.(".patch");
    if (patch) document.getElementById(patch.dataset.mark)?.classList.toggle("shown", on);
  }
  for (const [name, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => mark(event, on));
  }

  const keys = new Set(all(".segments input").map((input) => input.value));
  showLayer(["attribution-total", "attention-fused", "attention-20x"].find((key) => keys.has(key)) ?? "");
  setOpacity(60);
  if (slides.length) choose(slides[0].id);
  follow();
})();
