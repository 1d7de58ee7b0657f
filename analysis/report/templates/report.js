"use strict";
// Sorting, filtering and the details of runs. Plain DOM, no network; text is never set as HTML.
const runs = JSON.parse(document.getElementById("data").textContent);

function make(tag, attributes, ...children) {
  const svg = ["svg", "path", "line", "text"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// --- sorting -----------------------------------------------------------------------------------
function sortKey(cell) {
  const text = cell.dataset.sort !== undefined ? cell.dataset.sort : cell.textContent.trim();
  const value = parseFloat(text);
  return { text, value, number: text !== "" && !Number.isNaN(value) };
}

function compare(a, b, direction) {
  if (a.number !== b.number) return a.number ? -1 : 1; // what has no number stays last
  return direction * (a.number ? a.value - b.value : a.text.localeCompare(b.text));
}

function sortBy(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  closeDetails(table);
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
  rows.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const header of document.querySelectorAll(".sortable thead th")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}

// --- filtering ---------------------------------------------------------------------------------
const form = document.getElementById("filter");

function shows(row, fields, text) {
  if (fields.some(([name, value]) => row.dataset[name.toLowerCase()] !== value)) return false;
  if (!text) return true;
  if (row.search === undefined) row.search = row.textContent.toLowerCase();
  return row.search.includes(text);
}

function filter() {
  const fields = [...form.querySelectorAll("select")]
    .filter((select) => select.value)
    .map((select) => [select.name, select.value]);
  const text = form.elements.text.value.trim().toLowerCase();
  for (const table of document.querySelectorAll(".filterable")) {
    closeDetails(table);
    const rows = [...table.tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !shows(row, fields, text);
      shown += row.hidden ? 0 : 1;
    }
    table.querySelector(".count").textContent = `${shown} of ${rows.length}`;
  }
}

form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());

// --- details of a run --------------------------------------------------------------------------
function closeDetails(table) {
  for (const row of table.querySelectorAll(".detail")) row.remove();
  for (const button of table.querySelectorAll(".open")) button.setAttribute("aria-expanded", "false");
}

function plot(caption, x, series, xLabel) {
  const [width, height, left, bottom] = [320, 190, 34, 30];
  const last = Math.max(...x, 1);
  const px = (value) => left + ((width - left - 8) * value) / last;
  const py = (value) => 8 + (height - bottom - 8) * (1 - value / 100);
  const root = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption });
  for (const tick of [0, 50, 100]) {
    root.append(
      make("line", { class: "axis", x1: left, x2: width - 8, y1: py(tick), y2: py(tick) }),
      make("text", { x: left - 4, y: py(tick) + 4, "text-anchor": "end" }, `${tick}`),
    );
  }
  root.append(
    make("text", { x: px(0), y: height - 14, "text-anchor": "middle" }, "0"),
    make("text", { x: px(last), y: height - 14, "text-anchor": "end" }, `${last}`),
    make("text", { x: width / 2, y: height - 2, "text-anchor": "middle" }, xLabel),
  );
  for (const [style, values] of series) {
    const path = values.map((value, i) => `${i ? "L" : "M"}${px(x[i])} ${py(value)}`).join("");
    root.append(make("path", { class: style, d: path }));
  }
  return make("figure", {}, root, make("figcaption", {}, caption));
}

function plots(run) {
  const found = make("div", { class: "plots" });
  if (run.clean.length) {
    const epochs = run.clean.map((_, i) => i);
    const series = [["a", run.clean], ["b", run.adv]];
    const caption = `Validation accuracy (%) per epoch: clean, and dashed at ${run.val_epsilon}`;
    found.append(plot(caption, epochs, series, "epoch"));
  }
  for (const [attack, n, points, unit] of run.curves) {
    const caption = `Accuracy (%) of ${n} images under ${attack}`;
    found.append(plot(caption, points.map((p) => p[0]), [["a", points.map((p) => p[1])]], `strength (${unit})`));
  }
  return found;
}

function details(run) {
  const list = make("dl");
  for (const [name, value] of run.facts) {
    const shown = name === "W&B" && value.startsWith("https://") ? make("a", { href: value, rel: "noreferrer" }, value) : value;
    list.append(make("dt", {}, name), make("dd", {}, shown));
  }
  const inner = make("div", { class: "inner" }, make("p", {}, run.diagnosis), plots(run), list);
  if (run.config) inner.append(make("h3", {}, "Configuration, where runs differ"), make("pre", {}, run.config));
  if (run.log) inner.append(make("h3", {}, "End of the log"), make("pre", {}, run.log));
  return inner;
}

document.getElementById("run-table").addEventListener("click", (event) => {
  const button = event.target.closest(".open");
  if (!button) return;
  const row = button.closest("tr");
  const open = button.getAttribute("aria-expanded") === "true";
  closeDetails(row.closest("table"));
  if (open) return;
  button.setAttribute("aria-expanded", "true");
  const cell = make("td", { colspan: row.cells.length }, details(runs[button.dataset.run]));
  row.after(make("tr", { class: "detail" }, cell));
});
