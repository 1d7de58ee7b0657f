// The page as a whole: what is shown (the view), its permalink, and what has to be drawn.

const form = document.getElementById("filter");

// Everything a permalink restores. `changed` draws the page and writes the address.
const view = { filters: {}, search: "", group: "", comparison: "", sort: {}, page: {}, closed: new Set(), opened: new Set(), chosen: new Set() };

function address() {
  const fields = new URLSearchParams(view.filters);
  if (view.search) fields.set("search", view.search);
  if (view.group) fields.set("group", view.group);
  if (view.comparison) fields.set("comparison", view.comparison);
  for (const [name, [key, direction]] of Object.entries(view.sort)) fields.set(`${name}.sort`, direction > 0 ? key : `-${key}`);
  for (const [name, page] of Object.entries(view.page)) if (page > 1) fields.set(`${name}.page`, page);
  for (const name of ["closed", "opened", "chosen"]) if (view[name].size) fields.set(name, [...view[name]].join(","));
  return fields.toString();
}

function restore() {
  const fields = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const selects = [...form.querySelectorAll("select")];
  view.filters = {};
  for (const select of selects) {
    const value = fields.get(select.name) || "";
    select.value = value;
    if (select.name === "group") view.group = select.value;
    else if (select.value) view.filters[select.name] = select.value;
  }
  view.comparison = fields.get("comparison") || "";
  form.elements.search.value = view.search = fields.get("search") || "";
  view.sort = {};
  view.page = {};
  for (const [name, value] of fields) {
    const [table, what] = name.split(".");
    if (what === "sort") view.sort[table] = value.startsWith("-") ? [value.slice(1), -1] : [value, 1];
    if (what === "page") view.page[table] = Number(value) || 1;
  }
  for (const name of ["closed", "opened", "chosen"]) view[name] = new Set((fields.get(name) || "").split(",").filter(Boolean));
}

async function main() {
  const core = await unpack("core");
  const place = new Map(core.runs.rows.map((row, i) => [row[0], i]));
  const details = async (name) => {
    const i = place.get(name);
    if (LIVE) return ask(`run/${runs.rows[i].id}`);
    return (await unpack(`details-${Math.floor(i / core.together)}`))[i % core.together];
  };

  const cells = new DataTable("cells", document.getElementById("cells-host"), core.cells, view);
  const runs = new DataTable("runs-table", document.getElementById("runs-host"), core.runs, view, {
    run(row) {
      const box = make("input", { type: "checkbox", "aria-label": `Choose run ${row.run}` });
      box.checked = view.chosen.has(row.run);
      box.addEventListener("change", () => {
        if (!view.chosen.delete(row.run)) view.chosen.add(row.run);
        view.changed();
      });
      const open = view.opened.has(row.run);
      const button = make("button", { type: "button", class: "open", "aria-expanded": String(open) }, row.run);
      button.addEventListener("click", () => {
        if (!view.opened.delete(row.run)) view.opened.add(row.run);
        view.changed();
        document.querySelector(`tr[data-run="${row.run}"] .open`).focus({ preventScroll: true });
      });
      return [box, " ", button];
    },
    after(row, span) {
      if (!view.opened.has(row.run)) return [];
      const cell = make("td", { colspan: span }, "...");
      details(row.run).then((found) => cell.replaceChildren(opened(row, found, core.wandb)));
      return [make("tr", { class: "detail" }, cell)];
    },
  });

  const chosen = document.getElementById("chosen");
  async function compare() {
    const names = [...view.chosen].filter((name) => place.has(name));
    document.getElementById("clear").disabled = !names.length;
    const rows = names.map((name) => runs.rows[place.get(name)]);
    const found = await Promise.all(names.map(details));
    const keys = runs.columns.filter((column) => column.key !== "run");
    if (names.join() !== [...view.chosen].filter((name) => place.has(name)).join()) return; // the choice has changed meanwhile
    if (names.length > 1) chosen.replaceChildren(...compared(rows, found, keys));
    else chosen.replaceChildren(names.length ? "One run is chosen; choose another to compare them." : "No run is chosen.");
  }

  function draw() {
    cells.draw();
    runs.draw();
    compare();
    drawVerdict(core.verdict, view);
  }

  view.changed = () => {
    draw();
    history.replaceState(null, "", `#${address()}`);
  };

  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    if (name === "search") view.search = value.trim().toLowerCase();
    else if (name === "group") view.group = value;
    else if (value) view.filters[name] = value;
    else delete view.filters[name];
    view.page = {};
    view.changed();
  });
  form.addEventListener("reset", () => {
    Object.assign(view, { filters: {}, search: "", group: "", page: {}, closed: new Set() });
    view.changed();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("clear").addEventListener("click", () => {
    view.chosen.clear();
    view.changed();
  });
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return; // a section of the page
    restore();
    draw();
  });
  for (const link of document.querySelectorAll('nav a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the address holds the view
      document.querySelector(link.getAttribute("href")).scrollIntoView();
    });
  }

  // Draw what is in a fold when it is first opened; many tables have a fold each.
  function fold(block, draw) {
    const fill = () => block.open && block.childElementCount === 1 && block.append(...draw());
    block.addEventListener("toggle", fill);
    fill();
    return block;
  }

  const folded = (table) =>
    fold(make("details", {}, make("summary", {}, table.title)), () => laidOut(table));

  for (const block of document.querySelectorAll("details[data-draw]")) {
    const tables = core[block.dataset.draw];
    fold(block, () => ("each" in block.dataset ? tables.map(folded) : tables.flatMap(laidOut)));
  }

  // On a served page: the counts at its top and the choices of the state filter, as they are now.
  function recount() {
    const counts = new Map();
    for (const row of runs.rows) counts.set(row.state, (counts.get(row.state) || 0) + 1);
    const chip = ([state, count]) => make("span", { class: `state ${state}` }, `${count} ${state}`);
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    document.querySelector(".chips").replaceChildren(...ranked.flatMap((one) => [chip(one), " "]));
    const select = form.elements.state;
    const chosen = select.value;
    const states = new Set([...counts.keys(), ...cells.rows.map((row) => row.state)]);
    if (chosen) states.add(chosen);
    const options = [...states].sort().map((state) => make("option", {}, state));
    select.replaceChildren(make("option", { value: "" }, "all"), ...options);
    select.value = chosen;
  }

  const byId = new Map(runs.rows.map((row) => [row.id, row]));
  const told = new Map();
  const tell = {
    changed(changed) {
      for (const [id, now] of Object.entries(changed)) {
        const row = byId.get(id);
        if (!row) continue;
        told.set(id, now);
        runs.patch(row, now);
        const detail = document.querySelector(`tr[data-run="${row.run}"] + .detail td`);
        if (detail) details(row.run).then((found) => detail.replaceChildren(opened(row, found, core.wandb)));
      }
      if (Object.keys(changed).length) recount();
    },
    tables(fresh) {
      Object.assign(core, fresh);
      cells.replace(fresh.cells);
      runs.replace(fresh.runs);
      for (const row of runs.rows) {
        byId.set(row.id, row);
        if (told.has(row.id)) runs.patch(row, told.get(row.id));
      }
      recount();
      draw();
    },
  };

  restore();
  draw();
  if (LIVE) follow(tell);
  document.body.dataset.ready = "yes";
}

// --- heads of tables: below the bar of filters, which covers the top of a table scrolled under it --

function lowerHeads() {
  const edge = form.getBoundingClientRect().bottom;
  for (const table of document.querySelectorAll("#cells-host .scroll, #runs-host .scroll")) {
    const covered = Math.max(0, edge - table.getBoundingClientRect().top);
    table.style.setProperty("--covered", `${Math.min(covered, table.clientHeight)}px`);
  }
}
for (const event of ["scroll", "resize"]) window.addEventListener(event, lowerHeads, { passive: true });

// --- figures: drawn when they become visible ----------------------------------------------------

const dialog = document.getElementById("large");

async function drawFigure(figure) {
  const svg = new DOMParser().parseFromString(await unpack(figure.dataset.packed), "image/svg+xml").documentElement;
  const caption = figure.querySelector("figcaption").textContent;
  for (const [name, value] of [["role", "img"], ["aria-label", caption]]) svg.setAttribute(name, value);
  svg.removeAttribute("width");
  svg.removeAttribute("height");
  figure.querySelector(".frame").replaceChildren(document.adoptNode(svg));
}

function enlarge(figure) {
  const frame = figure.querySelector(".frame");
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  // The figure itself, not a copy: ids that it refers to must be unique.
  const svg = frame.firstElementChild;
  dialog.replaceChildren(close, svg);
  dialog.addEventListener("close", () => frame.replaceChildren(svg), { once: true });
  dialog.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
  dialog.showModal();
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      sight.unobserve(entry.target);
      drawFigure(entry.target);
    }
  },
  { rootMargin: "300px" },
);
for (const figure of document.querySelectorAll("figure[data-packed]")) {
  sight.observe(figure);
  figure.querySelector("button").addEventListener("click", () => enlarge(figure));
}

main();
