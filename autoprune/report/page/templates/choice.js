// The trials, and the choice under a budget by the rule of autoprune/analysis/pareto.py: ranked_within.

const data = JSON.parse(document.getElementById("data").textContent);

const unpacked = (column) =>
  Array.isArray(column) ? column : column.index.map((place) => column.values[place]);

function readTrials(columns) {
  const plain = ["kind", "origin", "baseline", "session", "seconds", "reason"].map((name) => [name, unpacked(columns[name])]);
  const nested = ["values", "stderr"].map((part) => [
    part,
    Object.entries(columns[part]).map(([name, column]) => [name, unpacked(column)]),
  ]);
  return columns.number.map((number, place) => {
    const trial = { number, place };
    for (const [name, column] of plain) trial[name] = column[place];
    for (const [part, named] of nested) {
      trial[part] = {};
      for (const [name, column] of named) if (column[place] !== null) trial[part][name] = column[place];
    }
    return trial;
  });
}

const KINDS = ["completed", "stopped", "over budget", "failed"];
const trials = readTrials(data.trials);
const completed = trials.filter((trial) => trial.kind === 0);
const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
const onFront = new Set(data.front);

// value / limit − 1 counts as exceeded from half of the twelfth decimal on, as Budget.violations rounds
const meets = (trial, limits) =>
  Object.entries(limits).every(([name, limit]) => trial.values[name] / limit - 1 <= 5e-13);

const lossOf = (trial) => trial.values.loss ?? 0;

// Of those within one standard error of the most accurate, the one with the lowest loss; of equals the first.
function bestWithin(limits) {
  const fitting = completed.filter((trial) => meets(trial, limits));
  if (!fitting.length) return null;
  const top = fitting.reduce((one, other) => (-other.values.accuracy < -one.values.accuracy ? other : one));
  const noise = top.stderr.accuracy ?? 0;
  const near = fitting.filter((trial) => !(-top.values.accuracy < -trial.values.accuracy - noise));
  return near.reduce((one, other) => (lossOf(other) < lossOf(one) ? other : one));
}

function pickCommand(trial, limits) {
  const asked = meets(trial, limits) ? Object.entries(limits) : [];
  const budget = asked.map(([name, limit]) => ` --budget-${name.replaceAll("_", "-")} ${limit}`).join("");
  return `autoprune pick ${data.folder}${budget} --trial ${trial.number}`;
}

// Numbers as the rest of the report writes them.
function short(value) {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(digits);
}

const UNITS = { mflops: " MFLOPs", nonzero_mflops: " MFLOPs", mparams: " M", nonzero_mparams: " M" };
const unitOf = (name) => UNITS[name] ?? ` ${data.metrics[name].unit}`;
const percent = (value, digits = 2) => `${(100 * value).toFixed(digits)} %`;

function costText(measured, name) {
  const error = measured.stderr[name];
  return short(measured.values[name]) + (error ? ` ± ${Number(error.toPrecision(2))}` : "") + unitOf(name);
}

function accuracyText(measured) {
  const error = measured.stderr.accuracy;
  const text = (100 * measured.values.accuracy).toFixed(2);
  return error ? `${text} ± ${(100 * error).toFixed(2)} %` : `${text} %`;
}

function ratioText(measured, name) {
  const dense = data.dense.values[name];
  if (!dense) return "";
  const ratio = measured.values[name] / dense;
  return name === "latency_ms" ? `${(1 / ratio).toFixed(2)}× as fast` : `${(100 * ratio).toFixed(0)} %`;
}

// Small builders: text only ever goes in as text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);
