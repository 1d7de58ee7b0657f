// Which setting is better: a comparison's table, and a small picture for each eps_g.

// Bars around a line in the middle: how accuracies change.
function bars(gaps, most, names) {
  const [width, height, bar] = [72, 44, 20];
  const said = names.map((name, i) => (gaps[i] === null ? `${name}: none` : `${name} ${gaps[i] > 0 ? "+" : ""}${gaps[i].toFixed(1)}`));
  const root = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said.join(", ") }, make("title", {}, said.join("\n")));
  gaps.forEach((gap, i) => {
    if (!gap) return;
    const tall = Math.max(0.6, (Math.abs(gap) / most) * (height / 2 - 1));
    const y = gap > 0 ? height / 2 - tall : height / 2;
    root.append(make("rect", { class: `${gap > 0 ? "up" : "down"} ${names[i]}`, x: 4 + i * (bar + 2), y, width: bar, height: tall }));
  });
  root.append(make("line", { class: "axis", x1: 0, x2: width, y1: height / 2, y2: height / 2 }));
  return root;
}

function picture({ strength, models, datasets, pairs }, most, names) {
  const of = new Map(pairs.map(([model, dataset, ...gaps]) => [`${model} ${dataset}`, gaps]));
  const head = make("tr", {}, make("td"), ...datasets.map((name) => make("th", { scope: "col" }, name)));
  const body = models.map((model) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, model),
      ...datasets.map((dataset) => {
        const gaps = of.get(`${model} ${dataset}`);
        return make("td", {}, gaps ? bars(gaps, most, names) : "\u2013");
      }),
    ),
  );
  const scroll = { class: "scroll picture", tabindex: 0, role: "region", "aria-label": `Where it helped at ${strength}` };
  return make("div", scroll, make("table", {}, captioned(`eps_g = ${strength}`), make("thead", {}, head), make("tbody", {}, ...body)));
}

// The pictures of a comparison, on one scale.
function pictures(several, names) {
  const tallest = Math.max(0, ...several.flatMap(({ pairs }) => pairs.flatMap((pair) => pair.slice(2).map(Math.abs))));
  const legend = `Where it helped. Bars: change of ${names.join(", ")} accuracy; the tallest is ${tallest.toFixed(1)} points.`;
  const each = several.map((one) => picture(one, Math.max(1, tallest), names));
  return [make("p", { class: "notes" }, legend), make("div", { class: "pictures" }, ...each)];
}

function drawVerdict(verdict, view) {
  const host = document.getElementById("verdict-host");
  const all = verdict.comparisons.map((one) => one.name);
  const chosen = verdict.comparisons[Math.max(0, all.indexOf(view.comparison))];
  if (!chosen) return;
  const select = make("select", { id: "comparison" }, ...all.map((name) => make("option", {}, name)));
  select.value = chosen.name;
  select.addEventListener("change", () => {
    view.comparison = select.value;
    view.changed();
    document.getElementById("comparison").focus();
  });
  const label = make("p", {}, make("label", { for: "comparison" }, "Compare "), select);
  host.replaceChildren(
    ...(all.length > 1 ? [label] : []),
    ...laidOut(chosen.table),
    ...(chosen.pictures.length ? pictures(chosen.pictures, verdict.metrics) : []),
    ...verdict.best.flatMap(laidOut),
    ...(all.length > 1 ? verdict.effects.flatMap(laidOut) : []),
  );
}
