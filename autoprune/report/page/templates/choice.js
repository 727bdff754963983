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

// Of the networks that are as good within noise: those that cost least within noise in what is preferred, or all.
function cheapest(near) {
  const cost = data.prefer;
  if (cost === null || !near.every((trial) => trial.values[cost] !== undefined)) return near;
  const error = (trial) => trial.stderr[cost] ?? 0;
  const least = near.reduce((one, other) => (other.values[cost] < one.values[cost] ? other : one));
  const within = data.metrics[cost].resolution * least.values[cost];
  const noise = (trial) => Math.max(error(trial), error(least), within);
  return near.filter((trial) => trial.values[cost] - least.values[cost] <= noise(trial));
}

// The quality that is aimed at: the best one, or the dense network's where the lead over it may be luck.
function aimOf(fitting, top) {
  const dense = data.dense.values[quality.name];
  if (dense === undefined) return worthOf(top);
  const lead = worthOf(top) - quality.sign * dense;
  return lead > 0 && lead <= data.luck[fitting.length - 1] * errorOf(top) ? quality.sign * dense : worthOf(top);
}

// Of those within one standard error of the aim, and then the cheapest, the one with the lowest loss; of equals the first.
function bestWithin(limits) {
  const fitting = completed.filter((trial) => meets(trial, limits));
  if (!fitting.length) return null;
  const top = fitting.reduce((one, other) => (-worthOf(other) < -worthOf(one) ? other : one));
  const [aim, noise] = [aimOf(fitting, top), errorOf(top)];
  const near = cheapest(fitting.filter((trial) => !(-aim < -worthOf(trial) - noise)));
  return near.reduce((one, other) => (lossOf(other) < lossOf(one) ? other : one));
}

function pickCommand(trial, limits) {
  const asked = meets(trial, limits) ? Object.entries(limits) : [];
  const budget = asked.map(([name, limit]) => ` --budget-${name.replaceAll("_", "-")} ${limit}`).join("");
  return `autoprune pick ${data.folder}${budget} --trial ${trial.number}`;
}

// The networks that were looked at without training and that no cheaper one is as near the dense network as.
function screenedFront(cost) {
  const columns = data.screened[cost];
  if (!columns) return [];
  return columns.number.map((number, place) => ({
    number,
    cost: columns.cost[place],
    rise: columns.rise[place],
    quality: columns.quality[place],
    stderr: columns.stderr[place],
  }));
}

// Whether a trial uses nine tenths of a budget: then pick takes it; else it solves for the budget.
const usesUp = (trial, limits) =>
  Object.entries(limits).some(([name, limit]) => trial.values[name] / limit >= 0.9);

// The dearest of the screened front within one limit, where the dense network is above it and no trial lies near.
function screenedWithin(limits) {
  const named = Object.entries(limits);
  if (named.length !== 1 || completed.some((trial) => meets(trial, limits) && usesUp(trial, limits))) return null;
  const [[cost, limit]] = named;
  if (!(data.dense.values[cost] > limit)) return null;
  return screenedFront(cost).filter((one) => one.cost <= limit).at(-1) ?? null;
}

function screenedText(one, limits) {
  const [[cost, limit]] = Object.entries(limits);
  const asGood = one.quality === null ? "" : `, ${qualityText({ values: { [quality.name]: one.quality }, stderr: { [quality.name]: one.stderr } })} without training`;
  return (
    `No trial lies near this budget. Screened network ${one.number} does: ${short(one.cost)}${unitOf(cost)}${asGood}. ` +
    `autoprune pick ${data.folder} --budget-${cost.replaceAll("_", "-")} ${limit} solves for exactly this budget, and finishes it.`
  );
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
