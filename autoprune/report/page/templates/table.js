// The table of trials: sorted by its headings, narrowed by kind, and downloadable as CSV.

const ROWS = 25;
const NUMBERS = [...new Set([...data.qualities.map((known) => known.name), "loss", ...data.costs])];
const TITLES = { loss: "Loss" };
for (const known of data.qualities) TITLES[known.name] = `${known.title} ${known.unit}`.trimEnd();
const shownTable = { which: data.front.length ? "front" : "all", by: quality.name, down: quality.sign > 0, rows: ROWS };

const FILTERS = {
  front: ["Front and baselines", (trial) => onFront.has(trial.number) || data.baselines.includes(trial.number) || trial.number === data.best],
  completed: ["Completed", (trial) => trial.kind === 0],
  stopped: ["Stopped", (trial) => trial.kind === 1],
  over: ["Over budget", (trial) => trial.kind === 2],
  failed: ["Failed", (trial) => trial.kind === 3],
  all: ["All", () => true],
};

const COLUMNS = [
  ["number", "Trial", (trial) => trial.number, (trial) => String(trial.number)],
  ["origin", "From", (trial) => trial.origin, (trial) => trial.origin],
  ...NUMBERS.map((name) => [name, TITLES[name] ?? data.titles[name], (trial) => trial.values[name], (trial) => numberText(trial, name)]),
  ...(data.trials.values.int8_gain ? [["int8_gain", `In int8 ${quality.gap_unit}`.trimEnd(), (trial) => trial.values.int8_gain, int8Text]] : []),
  ["seconds", "Seconds", (trial) => trial.seconds, (trial) => (trial.seconds === null ? "–" : trial.seconds.toFixed(1))],
  ["outcome", "Outcome", (trial) => trial.kind, outcomeText],
];

function numberText(trial, name) {
  const value = trial.values[name];
  if (value === undefined) return "–";
  const judged = data.qualities.find((known) => known.name === name);
  if (judged) return qualityText(trial, { ...judged, unit: "" });
  return name === "loss" ? value.toFixed(4) : costText(trial, name).replace(unitOf(name), "");
}

// By how much the network is better in int8 than in float32.
function int8Text(trial) {
  const value = trial.values.int8_gain;
  if (value === undefined) return "–";
  const number = (one) => (quality.scale * one).toFixed(quality.digits);
  return `${number(value)} ± ${number(trial.stderr.int8_gain)}`.replace("-", "−");
}

function outcomeText(trial) {
  if (trial.kind !== 0) return `${KINDS[trial.kind]}: ${trial.reason}`;
  const marks = [];
  if (trial.number === data.best) marks.push("best");
  if (trial.number === data.knee) marks.push("knee");
  if (onFront.has(trial.number)) marks.push("front");
  return marks.join(", ");
}

function sortedTrials() {
  const [, , value] = COLUMNS.find(([name]) => name === shownTable.by);
  const [, keeps] = FILTERS[shownTable.which];
  const sign = shownTable.down ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return a.number - b.number;
    if (x === undefined || x === null) return 1; // what has no value comes last, either way
    if (y === undefined || y === null) return -1;
    return sign * (x < y ? -1 : 1);
  };
  return trials.filter(keeps).sort(compare);
}

function heading([name, title]) {
  const sorted = name === shownTable.by;
  const direction = shownTable.down ? "descending" : "ascending";
  const arrow = element("span", { "aria-hidden": "true" }, sorted ? (shownTable.down ? " ↓" : " ↑") : "");
  const button = element("button", { type: "button" }, title, arrow);
  button.addEventListener("click", () => {
    Object.assign(shownTable, { by: name, down: sorted ? !shownTable.down : data.qualities.some((known) => known.name === name && known.sign > 0) });
    drawTable();
    byId("trials-table").querySelector(`th[data-column="${name}"] button`).focus();
  });
  const number = !["origin", "outcome"].includes(name);
  return element("th", { scope: "col", "data-column": name, class: number ? "number" : "", "aria-sort": sorted ? direction : "none" }, button);
}

function tableRow(trial) {
  const cells = COLUMNS.map(([name, , , text]) => {
    if (name === "number") return element("th", { scope: "row", class: "number" }, text(trial));
    return element("td", { class: ["origin", "outcome"].includes(name) ? name : "number" }, text(trial));
  });
  return element("tr", { class: trial.number === data.best ? "best" : "" }, ...cells);
}

function drawTable() {
  const found = sortedTrials();
  const table = byId("trials-table");
  table.tHead.replaceChildren(element("tr", {}, ...COLUMNS.map(heading)));
  table.tBodies[0].replaceChildren(...found.slice(0, shownTable.rows).map(tableRow));
  const shown = Math.min(found.length, shownTable.rows);
  byId("rows-shown").textContent = `${shown} of ${found.length} shown; ${trials.length} in all`;
  byId("more").hidden = shown === found.length;
}

// A cell that a spreadsheet would take for a formula is kept as text.
function csvCell(value) {
  const text = value === undefined || value === null ? "" : String(value);
  const harmless = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

function csvText(found) {
  const names = Object.keys(data.trials.values);
  const errors = Object.keys(data.trials.stderr);
  const head = ["trial", "origin", "outcome", "reason", "on_front", "session", "seconds", ...names, ...errors.map((name) => `${name}_stderr`)];
  const line = (trial) => [
    ...[trial.number, trial.origin, KINDS[trial.kind], trial.reason, Number(onFront.has(trial.number)), trial.session, trial.seconds],
    ...names.map((name) => trial.values[name]),
    ...errors.map((name) => trial.stderr[name]),
  ];
  return [head, ...found.map(line)].map((cells) => `${cells.map(csvCell).join(",")}\n`).join("");
}

function download() {
  const url = URL.createObjectURL(new Blob([csvText(sortedTrials())], { type: "text/csv" }));
  const link = element("a", { href: url, download: `${data.study}-trials.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function beginTable() {
  const count = (keeps) => trials.filter(keeps).length;
  for (const [name, [title, keeps]] of Object.entries(FILTERS)) {
    if (count(keeps)) byId("which").append(element("option", { value: name }, `${title} (${count(keeps)})`));
  }
  byId("which").value = shownTable.which;
  byId("which").addEventListener("change", (event) => {
    Object.assign(shownTable, { which: event.target.value, rows: ROWS });
    drawTable();
  });
  byId("more").addEventListener("click", () => {
    shownTable.rows += 4 * ROWS;
    drawTable();
  });
  byId("download").addEventListener("click", download);
  drawTable();
}
