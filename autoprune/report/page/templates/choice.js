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

const KINDS = ["completed", "stopped", "over budget", "failed", "untimed"];
const trials = readTrials(data.trials);
const completed = trials.filter((trial) => trial.kind === 0);
const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
const onFront = new Set(data.front);

// value / limit − 1 counts as exceeded from half of the twelfth decimal on, as Budget.violations rounds
const meets = (trial, limits) =>
  Object.entries(limits).every(([name, limit]) => trial.values[name] / limit - 1 <= 5e-13);

// The qualities that networks are judged by, the leading one first. worthOf is larger for the better of two networks.
const [quality, ...furtherQualities] = data.qualities;
const worthOf = (trial) => quality.sign * trial.values[quality.name];
const errorOf = (trial) => trial.stderr[quality.name] ?? 0;

const lossOf = (trial) => trial.values.loss ?? 0;

// Of those within one standard error of the best, the one with the lowest loss; of equals the first.
function bestWithin(limits) {
  const fitting = completed.filter((trial) => meets(trial, limits));
  if (!fitting.length) return null;
  const top = fitting.reduce((one, other) => (-worthOf(other) < -worthOf(one) ? other : one));
  const noise = errorOf(top);
  const near = fitting.filter((trial) => !(-worthOf(top) < -worthOf(trial) - noise));
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

// A quality with its standard error, if it has one.
function qualityText(measured, known = quality) {
  if (measured.values[known.name] === undefined) return "–";
  const written = (value) => (known.scale * value).toFixed(known.digits);
  const error = measured.stderr[known.name];
  const text = written(measured.values[known.name]);
  return `${error ? `${text} ± ${written(error)}` : text} ${known.unit}`.trimEnd();
}

// The same without its error, for where there is little room.
const qualityShort = (measured) => qualityText({ ...measured, stderr: {} });

// Where a name is needed to know what is meant.
const namedQuality = (measured, known = quality) =>
  known === quality && known.name === "accuracy" ? qualityText(measured, known) : `${known.name} ${qualityText(measured, known)}`;

function gapText(measured, known) {
  const change = known.scale * (measured.values[known.name] - data.dense.values[known.name]);
  return `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(known.digits)} ${known.gap_unit}`.trimEnd();
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
