// The details of one run, and the comparison of several.

const INKS = ["a", "b", "c", "d", "e", "f"]; // classes of lines, see report.css

// series: [class, x, y, name]; accuracies in percent.
function plot(caption, series, xLabel) {
  const [width, height, left, bottom] = [320, 190, 34, 30];
  const last = Math.max(1, ...series.flatMap(([, x]) => x));
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
  for (const [style, x, y, name] of series) {
    const path = y.map((value, i) => `${i ? "L" : "M"}${px(x[i]).toFixed(1)} ${py(value).toFixed(1)}`).join("");
    const alone = y.length === 1 ? "h-4h8" : ""; // a point by itself would not show
    root.append(make("path", { class: style, d: path + alone }, make("title", {}, name)));
  }
  return make("figure", { class: "plot" }, root, make("figcaption", {}, caption));
}

const counted = (values) => values.map((_, i) => i);

function plots(details) {
  const found = make("div", { class: "plots" });
  if (details.clean.length) {
    const epochs = counted(details.clean);
    const series = [["a", epochs, details.clean, "clean"], ["b dashed", epochs, details.adv, "adversarial"]];
    const caption = `Validation accuracy (%) per epoch: clean, and dashed at ${details.val_epsilon}`;
    found.append(plot(caption, series, "epoch"));
  }
  for (const [attack, n, points, unit] of details.curves) {
    const series = [["a", points.map((p) => p[0]), points.map((p) => p[1]), attack]];
    found.append(plot(`Accuracy (%) of ${n} images under ${attack}`, series, `strength (${unit})`));
  }
  return found;
}

function opened(row, details, wandb) {
  const list = make("dl");
  const facts = [["Run", row.id], ["State", row.reason ? `${row.state} (${row.reason})` : row.state], ...details.facts];
  for (const [name, value] of facts) list.append(make("dt", {}, name), make("dd", {}, value));
  if (wandb) {
    const address = `${wandb}/runs/${row.id}`;
    list.append(make("dt", {}, "W&B"), make("dd", {}, make("a", { href: address, rel: "noreferrer" }, address)));
  }
  const inner = make("div", { class: "inner" }, make("p", {}, details.diagnosis), plots(details), list);
  if (details.config) inner.append(make("h3", {}, "Configuration: fields in which runs differ"), make("pre", {}, details.config));
  if (details.log) inner.append(make("h3", {}, "End of the log"), make("pre", {}, details.log));
  return inner;
}

// Runs side by side: a line for each field in which they differ.
function compared(rows, details, keys) {
  const fields = new Map();
  const put = (name, i, value) => {
    if (!fields.has(name)) fields.set(name, rows.map(() => ""));
    fields.get(name)[i] = value;
  };
  rows.forEach((row, i) => {
    for (const { key, title } of keys) put(title, i, text(row[key]));
    for (const line of details[i].config.split("\n").filter(Boolean)) {
      const [name] = line.split(": ", 1);
      if (!keys.some(({ key }) => key === name)) put(name, i, line.slice(name.length + 2));
    }
  });
  const table = {
    title: `${rows.length} runs side by side`,
    stub: ["Field"],
    levels: [rows.map((row) => [row.run, 1])],
    rows: [...fields].filter(([, values]) => new Set(values).size > 1).map(([name, values]) => [[name], values]),
    notes: ["Fields that are equal for all of them are left out"],
  };
  const drawn = make("div", { class: "plots" });
  const named = (row) => `${row.run}: ${row.model}, ${row.dataset}, ${row.eps_g}, ${row.setting} ${row.variant}`;
  const ink = (i) => INKS[i % INKS.length] + (i >= INKS.length ? " dashed" : "");
  for (const [key, what] of [["clean", "clean"], ["adv", "adversarial"]]) {
    const series = details.map((one, i) => [ink(i), counted(one[key]), one[key], named(rows[i])]);
    drawn.append(plot(`Validation accuracy (%) per epoch: ${what}`, series, "epoch"));
  }
  const kinds = new Map(details.flatMap((one) => one.curves.map(([attack, , , unit]) => [`${attack} ${unit}`, [attack, unit]])));
  for (const [attack, unit] of kinds.values()) {
    const series = details.flatMap((one, i) =>
      one.curves
        .filter((curve) => curve[0] === attack && curve[3] === unit)
        .map(([, , points]) => [ink(i), points.map((p) => p[0]), points.map((p) => p[1]), named(rows[i])]),
    );
    drawn.append(plot(`Accuracy (%) under ${attack}`, series, `strength (${unit})`));
  }
  const legend = make("ul", { class: "legend" });
  rows.forEach((row, i) => {
    const line = make("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, make("path", { class: ink(i), d: "M0 4L24 4" }));
    legend.append(make("li", {}, line, " ", named(row)));
  });
  return [legend, drawn, ...laidOut(table)];
}
