// A table of many rows: filtered, sorted, grouped, with one page of it in the document.

const PAGE = 100; // rows in the document
const text = (value) => (value !== null && typeof value === "object" ? value.text : String(value));

function sortKey(value) {
  const shown = text(value);
  const number = shown === "never" ? Infinity : parseFloat(shown.replace(/^(\d+)\/255$/, "$1"));
  return { shown, number, counts: shown !== "" && !Number.isNaN(number) };
}

function inOrder(a, b, direction) {
  if (a.counts !== b.counts) return a.counts ? -1 : 1; // values without a number come last
  if (!a.counts) return direction * a.shown.localeCompare(b.shown, undefined, { numeric: true });
  return a.number === b.number ? 0 : direction * (a.number < b.number ? -1 : 1);
}

function mean(rows, key) {
  const numbers = rows.map((row) => sortKey(row[key])).filter((one) => one.counts && one.number < Infinity);
  if (!numbers.length) return "";
  return (numbers.reduce((sum, one) => sum + one.number, 0) / numbers.length).toFixed(2);
}

class DataTable {
  // name: of the table in permalinks. host: the element it is drawn into. view: see report.js.
  // extra: content for the cells of some columns, by key, and what follows a row.
  constructor(name, host, data, view, extra = {}) {
    Object.assign(this, { name, host, view, extra, what: data.what });
    this.count = make("span", { class: "count", "aria-live": "polite" });
    this.pager = make("span", { class: "pager" });
    const save = make("button", { type: "button", class: "save" }, "CSV of these");
    save.addEventListener("click", () => this.save());
    this.bar = make("p", { class: "bar" }, this.count, " ", save, " ", this.pager);
    this.head = make("tr");
    this.body = make("tbody");
    const table = make("table", { id: name }, make("thead", {}, this.head), this.body);
    const label = `${this.what[0].toUpperCase()}${this.what.slice(1)} table`;
    const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": label };
    host.replaceChildren(this.bar, make("div", scroll, table));
    this.replace(data);
  }

  // data: other rows, and other columns once something is measured.
  replace(data) {
    this.columns = data.columns;
    this.shown = data.columns.filter((column) => !column.hidden);
    this.rows = data.rows.map((row) => this.row(row));
    const headers = this.shown.map((column) => {
      const button = make("button", { type: "button" }, column.title);
      button.addEventListener("click", () => this.sortBy(column.key));
      return make("th", { scope: "col", "data-key": column.key, class: column.number && "number" }, button);
    });
    this.head.replaceChildren(...headers);
  }

  // Update a run's row in place, without scrolling or redrawing the page.
  patch(row, [state, progress, reason]) {
    Object.assign(row, { state, progress, reason: reason || "" });
    const drawn = this.body.querySelector(`tr[data-run="${row.run}"]`);
    if (!drawn) return;
    const place = this.shown.findIndex((column) => column.key === "state");
    drawn.cells[place].replaceChildren(...this.inside(row, "state"));
  }

  row(values) {
    const row = Object.fromEntries(this.columns.map((column, i) => [column.key, values[i]]));
    row.search = values.map(text).join(" ").toLowerCase();
    return row;
  }

  // Rows that pass the filters of the page, in order.
  selected() {
    const { filters, search } = this.view;
    const wanted = Object.entries(filters).filter(([key]) => key in (this.rows[0] || {}));
    const rows = this.rows.filter(
      (row) =>
        wanted.every(([key, value]) => text(row[key]) === value) && (!search || row.search.includes(search)),
    );
    const [key, direction] = this.view.sort[this.name] || [];
    if (!key) return rows;
    const keyed = rows.map((row) => [sortKey(row[key]), row]);
    keyed.sort((a, b) => inOrder(a[0], b[0], direction));
    return keyed.map(([, row]) => row);
  }

  // Content of all pages: rows, with a heading before each group if they are grouped.
  lines(rows) {
    const key = this.view.group;
    if (!key || !(key in (rows[0] || {}))) return rows;
    const groups = new Map();
    for (const row of rows) {
      const name = text(row[key]);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(row);
    }
    return [...groups].flatMap(([name, members]) => {
      const closed = this.view.closed.has(name);
      return closed ? [{ group: name, members, closed }] : [{ group: name, members, closed }, ...members];
    });
  }

  draw() {
    const rows = this.selected();
    const lines = this.lines(rows);
    const pages = Math.max(1, Math.ceil(lines.length / PAGE));
    const page = Math.min(this.view.page[this.name] || 1, pages);
    this.count.textContent = `${rows.length} of ${this.rows.length} ${this.what}`;
    this.drawPager(page, pages);
    const [key, direction] = this.view.sort[this.name] || [];
    for (const header of this.head.cells) {
      if (header.dataset.key === key) header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    }
    const here = lines.slice((page - 1) * PAGE, page * PAGE);
    this.body.replaceChildren(...here.flatMap((line) => (line.members ? [this.groupHead(line)] : this.drawn(line))));
  }

  drawPager(page, pages) {
    this.pager.replaceChildren();
    if (pages === 1) return;
    const go = (label, to, name) => {
      const button = make("button", { type: "button", "aria-label": name, disabled: to < 1 || to > pages ? "" : null }, label);
      button.addEventListener("click", () => this.turn(to));
      return button;
    };
    this.pager.append(
      go("\u2039", page - 1, `Previous page of ${this.what}`),
      ` page ${page} of ${pages} `,
      go("\u203a", page + 1, `Next page of ${this.what}`),
    );
  }

  turn(page) {
    this.view.page[this.name] = page;
    this.view.changed();
  }

  sortBy(key) {
    const [now, direction] = this.view.sort[this.name] || [];
    this.view.sort[this.name] = [key, now === key ? -direction : 1];
    this.turn(1);
  }

  groupHead({ group, members, closed }) {
    const button = make("button", { type: "button", class: "fold", "aria-expanded": String(!closed) }, group || "(none)");
    button.addEventListener("click", () => {
      if (!this.view.closed.delete(group)) this.view.closed.add(group);
      this.view.changed();
    });
    const labels = this.shown.findIndex((column) => column.number);
    const head = make("th", { scope: "rowgroup", colspan: labels }, button, ` ${members.length} ${this.what}, means`);
    const means = this.shown.slice(labels).map((column) => {
      const averaged = column.number && !["seed", "n", "seeds"].includes(column.key);
      return make("td", { class: column.number && "number" }, averaged ? mean(members, column.key) : "");
    });
    return make("tr", { class: "group" }, head, ...means);
  }

  drawn(row) {
    const cells = this.shown.map((column, i) => {
      const inside = this.extra[column.key] ? this.extra[column.key](row) : this.inside(row, column.key);
      return make(i ? "td" : "th", { scope: i ? null : "row", class: column.number && "number" }, ...inside);
    });
    const drawn = make("tr", { "data-run": row.run }, ...cells);
    return this.extra.after ? [drawn, ...this.extra.after(row, this.shown.length)] : [drawn];
  }

  inside(row, key) {
    const value = row[key];
    if (key === "state") {
      const state = make("span", { class: `state ${value}`, title: row.reason || null }, value);
      return row.progress ? [state, make("small", {}, row.progress)] : [state];
    }
    if (value === null || typeof value !== "object") return [String(value)];
    const inside = [value.bold ? make("strong", {}, value.text) : value.text];
    if (value.mark) inside.push(make("abbr", { title: value.note }, value.mark));
    if (value.interval) inside.push(make("small", {}, value.interval));
    return inside;
  }

  // All rows that pass the filters, on other pages, too, in the order shown.
  csv() {
    const keys = this.columns.map((column) => column.key);
    const lines = [keys, ...this.selected().map((row) => keys.map((key) => text(row[key])))];
    return lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  save() {
    const url = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    const link = make("a", { href: url, download: `${document.title.split(":")[0]}-${this.what}.csv` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

// Text that no spreadsheet takes for a formula; numbers may begin with a minus.
function quoted(value) {
  const safe = /^[=+@\t\r-]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
