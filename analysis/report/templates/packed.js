"use strict";
// The page's data: gzipped JSON in base64, unpacked when it is shown. And the only way in which the
// page makes elements: text is never set as HTML.

const unpacked = new Map();

function unpack(name) {
  if (!unpacked.has(name)) unpacked.set(name, inflate(document.getElementById(`data-${name}`)));
  return unpacked.get(name);
}

async function inflate(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "line", "text", "rect", "g", "title"]);

function make(tag, attributes, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// No line break within an interval.
function whole(text) {
  return text.replace(/\[[^\]]*\]/g, (interval) => interval.replaceAll(" ", "\u00a0"));
}

function captioned(title) {
  return make("caption", {}, make("span", {}, title));
}

function entryOf(entry) {
  if (Array.isArray(entry)) return [make("strong", {}, entry[0])];
  const [first, ...rest] = whole(entry).split("\n");
  return rest.length ? [first, make("small", {}, rest.join(" "))] : [first];
}

// A table as analysis.tables lays it out: header lines as [label, span]; a bold entry is [text];
// after a line break, small text below it.
function laidOut(table) {
  const head = make("thead");
  table.levels.forEach((level, depth) => {
    const last = depth === table.levels.length - 1;
    const stub = last
      ? table.stub.map((name) => make("th", { scope: "col" }, name))
      : [make("td", { colspan: table.stub.length })];
    const labels = level.map(([label, span]) =>
      make("th", { scope: span === 1 ? "col" : "colgroup", colspan: span, class: "number" }, label),
    );
    head.append(make("tr", {}, ...stub, ...labels));
  });
  const body = make("tbody");
  for (const [labels, entries] of table.rows) {
    body.append(
      make(
        "tr",
        {},
        ...labels.map((label) => make("th", { scope: "row" }, label)),
        ...entries.map((entry) => make("td", { class: "number" }, ...entryOf(entry))),
      ),
    );
  }
  const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": table.title };
  const drawn = make("div", scroll, make("table", {}, captioned(table.title), head, body));
  const notes = make("ul", { class: "notes" }, ...table.notes.map((note) => make("li", {}, note)));
  return table.notes.length ? [drawn, notes] : [drawn];
}
