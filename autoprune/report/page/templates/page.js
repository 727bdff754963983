// What the reader has chosen, and everything that follows from it.

const state = { cost: data.costs[0], limits: { ...data.budget }, chosen: null, compared: null };

function choose() {
  state.chosen = bestWithin(state.limits);
  const named = Object.entries(state.limits).map(([name, limit]) => `${limit}${unitOf(name)}`);
  const budget = named.length ? `within ${named.join(" and ")}` : "without a budget";
  byId("choice").textContent = state.chosen
    ? `The best ${budget} is trial ${state.chosen.number}: ${namedQuality(state.chosen)}, ${costText(state.chosen, state.cost)}.`
    : `No completed trial is ${budget}.`;
  const screened = screenedWithin(state.limits);
  if (screened) byId("choice").textContent += ` ${screenedText(screened, state.limits)}`;
  byId("chosen").replaceChildren(card(state.chosen, state.limits));
  drawCompared();
  drawLimits();
  placeOverlay(state);
}

function drawCompared() {
  compareOptions(state);
  byId("compared").replaceChildren(card(state.compared, state.limits));
  drawPolicies(state.chosen, state.compared);
}

function setCompared(number) {
  const trial = byNumber.get(number);
  if (!trial || trial.kind !== 0) return;
  state.compared = trial;
  drawCompared();
  placeOverlay(state);
}

// Set or, with NaN, lift the limit of the shown cost.
function setLimit(value, typed = false) {
  if (value > 0 && Number.isFinite(value)) state.limits[state.cost] = value;
  else delete state.limits[state.cost];
  if (!typed) byId("budget").value = state.limits[state.cost] ?? "";
  choose();
}

function drawLimits() {
  const limit = state.limits[state.cost];
  const handle = byId("handle");
  const [low, high] = costRange(state.cost);
  handle.setAttribute("aria-label", `Budget in${unitOf(state.cost)}`);
  handle.setAttribute("aria-valuemin", String(Math.max(0, low)));
  handle.setAttribute("aria-valuemax", String(high));
  handle.setAttribute("aria-valuenow", String(limit ?? high));
  const found = state.chosen ? `trial ${state.chosen.number}, ${namedQuality(state.chosen)}` : "no trial";
  handle.setAttribute("aria-valuetext", `${limit === undefined ? "no limit" : `at most ${limit}${unitOf(state.cost)}`}: ${found}`);
  byId("no-limit").disabled = limit === undefined;
  const others = Object.entries(state.limits).filter(([name]) => name !== state.cost);
  byId("others").hidden = !others.length;
  byId("other-limits").replaceChildren(
    ...others.map(([name, value]) => {
      const text = `≤ ${value}${unitOf(name)}`;
      const button = element("button", { type: "button", class: "chip", "aria-label": `Lift the limit of ${value}${unitOf(name)}` }, `${text} ×`);
      button.addEventListener("click", () => {
        delete state.limits[name];
        choose();
      });
      return button;
    }),
  );
}

function showCost(name) {
  state.cost = name;
  byId("budget").value = state.limits[name] ?? "";
  byId("budget-unit").textContent = unitOf(name).trim();
  byId("front-text").textContent = frontText(state);
  choose();
}

async function setCost(name) {
  showCost(name);
  await drawFront(state);
  placeOverlay(state);
}

// Four significant digits are finer than the picture, and short in the command.
const rounded = (value) => Number(value.toPrecision(4));

function dragLine(event) {
  const { xaxis } = plot._fullLayout;
  const place = event.clientX - byId("front").getBoundingClientRect().left - xaxis._offset;
  const value = xaxis.p2l(Math.min(Math.max(place, 0), xaxis._length));
  if (value > 0) setLimit(rounded(value));
}

function stepLine(event) {
  const [low, high] = costRange(state.cost);
  const step = Number(((high - low) / 100).toPrecision(1));
  const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
  const now = state.limits[state.cost] ?? high;
  const cheapest = Math.min(...completed.map((trial) => trial.values[state.cost]));
  const ends = { Home: 1.0006 * cheapest, End: high }; // rounded, it is still met by the cheapest
  const next = event.key in ends ? ends[event.key] : event.key in moves ? now + moves[event.key] * step : null;
  if (next === null) return;
  event.preventDefault();
  setLimit(rounded(Math.max(next, step)));
}

function listen() {
  const handle = byId("handle");
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) dragLine(event);
  });
  handle.addEventListener("keydown", stepLine);
  byId("budget").addEventListener("input", (event) => setLimit(event.target.valueAsNumber, true));
  byId("budget").addEventListener("keydown", (event) => {
    if (event.key === "ArrowUp" || event.key === "ArrowDown") stepLine(event);
  });
  byId("no-limit").addEventListener("click", () => setLimit(NaN));
  byId("compare").addEventListener("change", (event) => setCompared(Number(event.target.value)));
  byId("compare-number").addEventListener("change", (event) => setCompared(event.target.valueAsNumber));
  plot.on("plotly_click", (event) => setCompared(event.points[0].customdata));
  plot.on("plotly_afterplot", () => placeOverlay(state));
}

function costChoices() {
  for (const name of data.costs) {
    const input = element("input", { type: "radio", name: "cost", value: name, id: `cost-${name}` });
    input.checked = name === state.cost;
    input.addEventListener("change", () => setCost(name));
    byId("costs").append(input, element("label", { for: `cost-${name}` }, data.titles[name]));
  }
}

// Draw again in the colours of the scheme, or of paper.
async function redraw() {
  await drawFront(state);
  await drawHistory();
  placeOverlay(state);
}

function ready() {
  performance.mark("drawn");
  document.documentElement.setAttribute("data-ready", "");
}

function begin() {
  state.cost = data.first ?? data.costs.find((name) => name in state.limits) ?? state.cost;
  const best = bestWithin(state.limits)?.number ?? null;
  const other = [...data.baselines, data.knee, ...data.front].find((number) => number !== null && number !== best);
  state.compared = byNumber.get(other) ?? null;
  costChoices();
  frontLegend();
  criteriaLegend();
  byId("history-text").textContent = historyText();
  showCost(state.cost);
}

// Plotly stands behind this script, because reading it takes longer than everything above.
async function drawPlots() {
  await drawFront(state);
  placeOverlay(state);
  listen();
  await drawHistory();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", () => requestAnimationFrame(() => placeOverlay(state)));
  for (const [name, onPaper] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(name, () => {
      document.documentElement.classList.toggle("paper", onPaper);
      redraw();
    });
  }
}

if (trials.length) beginTable();
if (completed.length && data.costs.length) {
  begin();
  addEventListener("DOMContentLoaded", () => drawPlots().then(ready));
} else ready();
