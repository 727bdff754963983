// The front: the leading quality against a cost, and over it the budget as a line that can be dragged, typed or moved by keys.

const SHAPES = [
  ["square", "M3 3h10v10H3z", "--b0"],
  ["triangle-up", "M8 2l6.5 11.5h-13z", "--b1"],
  ["diamond", "M8 1l7 7-7 7-7-7z", "--b2"],
  ["cross", "M6 1h4v5h5v4h-5v5H6v-5H1V6h5z", "--b3"],
  ["pentagon", "M8 1l7 5-2.7 8.5H3.7L1 6z", "--b4"],
  ["triangle-down", "M8 14L1.5 2.5h13z", "--b5"],
  ["hexagon2", "M4.5 2h7L15 8l-3.5 6h-7L1 8z", "--b6"],
];
const CIRCLE = "M8 3a5 5 0 1 1 0 10A5 5 0 0 1 8 3z";
const CLOUD = 1500; // trials drawn one by one; of more, those that fall on the same spot are drawn once

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const baselineNames = [...new Set(completed.filter((t) => t.baseline).map((t) => t.origin))];
const [lowest, highest] = data.quality_range;
const isUp = quality.sign > 0; // whether better networks stand higher
const worstShown = isUp ? lowest : highest;
let plot = null;

function costRange(name) {
  const values = completed.map((trial) => trial.values[name]);
  values.push(...screenedFront(name).map((one) => one.cost));
  if (data.budget[name]) values.push(data.budget[name]);
  const dense = data.dense.values[name] ?? 0;
  let left = Math.min(...values);
  let right = Math.max(...values);
  const span = () => Math.max(right - left, 0.03 * right);
  if (dense <= right + 0.5 * span()) right = Math.max(right, dense);
  const middle = (left + right) / 2;
  return [middle - 0.58 * span(), middle + 0.58 * span()];
}

// What is too bad for the picture stands on its edge: the lower one where larger is better, else the upper one.
const isOutside = (trial) => worthOf(trial) < quality.sign * worstShown;
const edge = worstShown + quality.sign * 0.012 * (highest - lowest);
const shownQuality = (trial) => quality.scale * (worthOf(trial) < quality.sign * edge ? edge : trial.values[quality.name]);

const qualityLines = (measured) => data.qualities.map((known) => escaped(namedQuality(measured, known))).join("<br>");

function hover(trial) {
  const costs = data.costs.map((name) => `${data.titles[name]}: ${costText(trial, name)}`);
  return [`<b>trial ${trial.number}</b> ${escaped(trial.origin)}`, qualityLines(trial), ...costs].join("<br>");
}

function points(found, cost, options) {
  const errors = (name, factor) => ({
    type: "data",
    array: found.map((trial) => (isOutside(trial) ? 0 : factor * (trial.stderr[name] ?? 0))),
    visible: Boolean(options.errors),
    thickness: 1,
    width: 0,
    color: options.color,
  });
  return {
    type: "scatter",
    mode: "markers",
    x: found.map((trial) => trial.values[cost]),
    y: found.map(shownQuality),
    customdata: found.map((trial) => trial.number),
    text: found.map(hover),
    hovertemplate: "%{text}<extra></extra>",
    error_x: errors(cost, 1),
    error_y: errors(quality.name, quality.scale),
    marker: {
      color: options.color,
      size: options.size,
      opacity: options.opacity ?? 1,
      symbol: found.map((trial) => (isOutside(trial) ? (isUp ? "triangle-down-open" : "triangle-up-open") : options.symbol)),
      line: { color: css("--paper"), width: options.size > 6 ? 1 : 0 },
    },
  };
}

function thinned(found, cost) {
  if (found.length <= CLOUD) return found;
  const [left, right] = costRange(cost);
  const spots = new Map();
  for (const trial of found) {
    const x = Math.round((260 * (trial.values[cost] - left)) / (right - left));
    spots.set(`${x}/${Math.round((130 * (shownQuality(trial) / quality.scale - lowest)) / (highest - lowest))}`, trial);
  }
  return [...spots.values()];
}

function stairs(cost) {
  const climbing = [];
  const found = data.front.map((number) => byNumber.get(number)).filter((trial) => !isOutside(trial));
  found.sort((a, b) => a.values[cost] - b.values[cost] || worthOf(b) - worthOf(a));
  for (const trial of found) {
    if (!climbing.length || worthOf(trial) > worthOf(climbing.at(-1))) climbing.push(trial);
  }
  return {
    type: "scatter",
    mode: "lines",
    x: climbing.map((trial) => trial.values[cost]),
    y: climbing.map((trial) => quality.scale * trial.values[quality.name]),
    line: { shape: "hv", color: css("--front"), width: 1.5 },
    opacity: 0.6,
    hoverinfo: "skip",
  };
}

// What was looked at without training: its quality as it was seen, in a band of one standard error.
function screenedTraces(cost) {
  const seen = screenedFront(cost).filter((one) => one.quality !== null);
  if (seen.length < 2) return [];
  const y = (sign) => seen.map((one) => quality.scale * (one.quality + sign * (one.stderr ?? 0)));
  const line = { type: "scatter", mode: "lines", x: seen.map((one) => one.cost), hoverinfo: "skip", line: { color: css("--cloud"), width: 0 } };
  const text = seen.map((one) => `screened network ${one.number}<br>${short(one.cost)}${escaped(unitOf(cost))}, without training`);
  return [
    { ...line, y: y(-1) },
    { ...line, y: y(1), fill: "tonexty", fillcolor: css("--rule") },
    { ...line, y: y(0), line: { color: css("--cloud"), width: 1.5, dash: "dot" }, hoverinfo: "text", text },
  ];
}

function frontTraces(cost) {
  const others = completed.filter((trial) => !onFront.has(trial.number) && !trial.baseline);
  const searched = completed.filter((trial) => onFront.has(trial.number) && !trial.baseline);
  const traces = [
    ...screenedTraces(cost),
    points(thinned(others, cost), cost, { color: css("--cloud"), size: 6, symbol: "circle", opacity: 0.75 }),
    stairs(cost),
    points(searched, cost, { color: css("--front"), size: 9, symbol: "circle", errors: true }),
  ];
  baselineNames.forEach((name, index) => {
    const [symbol, , color] = SHAPES[index % SHAPES.length];
    const found = completed.filter((trial) => trial.baseline && trial.origin === name);
    traces.push(points(found, cost, { color: css(color), size: 10, symbol, errors: true }));
  });
  const dense = { ...data.dense, number: null, origin: "dense" };
  if (dense.values[cost] !== undefined) {
    const trace = points([dense], cost, { color: css("--ink"), size: 10, symbol: "circle", errors: true });
    traces.push({ ...trace, text: [`<b>dense network</b><br>${qualityLines(dense)}<br>${costText(dense, cost)}`] });
  }
  return traces;
}

function plainLayout(xTitle, yTitle) {
  const axis = { gridcolor: css("--rule"), linecolor: css("--rule"), zeroline: false, ticks: "", automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: css("--quiet") },
    margin: { l: 56, r: 18, t: 44, b: 52 },
    xaxis: { ...axis, title: { text: xTitle, standoff: 8 } },
    yaxis: { ...axis, title: { text: yTitle, standoff: 6 } },
    showlegend: false,
    hoverlabel: { align: "left", bgcolor: css("--paper"), bordercolor: css("--quiet"), font: { color: css("--ink") } },
  };
}

function frontLayout(cost) {
  const isNarrow = byId("front").clientWidth < 520;
  const layout = plainLayout(escaped(isNarrow ? data.titles[cost] : data.axes[cost]), `validation ${escaped(quality.name)}${quality.unit ? ` (${escaped(quality.unit)})` : ""}`);
  const dense = quality.scale * data.dense.values[quality.name];
  const error = quality.scale * errorOf(data.dense);
  const line = { xref: "paper", x0: 0, x1: 1, layer: "below" };
  return {
    ...layout,
    xaxis: { ...layout.xaxis, range: costRange(cost) },
    yaxis: { ...layout.yaxis, range: [quality.scale * lowest, quality.scale * highest] },
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
    hovermode: "closest",
    shapes: [
      { ...line, type: "rect", y0: dense - error, y1: dense + error, fillcolor: css("--ink"), opacity: 0.06, line: { width: 0 } },
      { ...line, type: "line", y0: dense, y1: dense, line: { color: css("--quiet"), width: 1, dash: "dot" } },
    ],
    annotations: [
      {
        text: `dense ${escaped(qualityShort(data.dense))}${
          data.dense.values[cost] === undefined ? "" : `, ${short(data.dense.values[cost])}${escaped(unitOf(cost))}`
        }`,
        xref: "paper",
        x: 0,
        xanchor: "left",
        y: dense,
        yanchor: "bottom",
        showarrow: false,
        font: { size: 11 },
      },
    ],
  };
}

const PLOT_SETTINGS = {
  responsive: true,
  displaylogo: false,
  displayModeBar: false,
};

async function drawFront(state) {
  plot = byId("front");
  await Plotly.react(plot, frontTraces(state.cost), frontLayout(state.cost), PLOT_SETTINGS);
}

function frontLegend() {
  const icon = (path, color, filled = true) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", path);
    shape.style[filled ? "fill" : "stroke"] = `var(${color})`;
    if (!filled) shape.style.fill = "none";
    svg.append(shape);
    return svg;
  };
  const entry = (name, ...rest) => element("li", {}, icon(...rest), name);
  const entries = [entry("front", CIRCLE, "--front"), entry("the choice", CIRCLE, "--best", false), entry("beside it", CIRCLE, "--second", false)];
  baselineNames.forEach((name, index) => entries.push(entry(name, SHAPES[index % SHAPES.length][1], SHAPES[index % SHAPES.length][2])));
  if (Object.keys(data.screened).length) entries.push(entry("without training, dotted", CIRCLE, "--rule"));
  entries.push(entry("other trials", CIRCLE, "--cloud"), entry("dense", CIRCLE, "--ink"));
  if (completed.some(isOutside)) entries.push(entry(`${isUp ? "below" : "above"} the picture`, SHAPES[isUp ? 5 : 1][1], "--quiet", false));
  byId("legend").replaceChildren(...entries);
}

function frontText(state) {
  const costs = completed.map((trial) => trial.values[state.cost]);
  const found = data.front.map((number) => byNumber.get(number));
  found.sort((a, b) => a.values[state.cost] - b.values[state.cost]);
  const listed = found.slice(0, 12).map((t) => `trial ${t.number} ${qualityShort(t)} at ${short(t.values[state.cost])}`);
  const more = found.length > listed.length ? ` and ${found.length - listed.length} more` : "";
  return (
    `${completed.length} completed trials from ${short(Math.min(...costs))} to ${short(Math.max(...costs))}${unitOf(state.cost)}. ` +
    `The front, from cheap to dear: ${listed.join("; ")}${more}. Bars are one standard error; every trial is in the table below.`
  );
}

// Where a value lies on the screen, in pixels from the frame's left and top; null outside the axes.
function placeOf(axis, value) {
  const place = axis.l2p(value);
  return place >= -0.5 && place <= axis._length + 0.5 ? axis._offset + place : null;
}

function moveTo(node, left, top) {
  node.hidden = left === null || top === null;
  if (!node.hidden) node.style.transform = `translate(${left}px, ${top}px)`;
}

function placeOverlay(state) {
  if (!plot?._fullLayout) return; // not drawn yet
  const { xaxis, yaxis } = plot._fullLayout;
  const limit = state.limits[state.cost];
  const [left, right] = xaxis.range;
  const inView = Math.min(Math.max(limit ?? right, left), right);
  const x = xaxis._offset + xaxis.l2p(inView);
  const end = xaxis._offset + xaxis._length;
  byId("overlay").hidden = false;
  Object.assign(byId("line").style, { transform: `translateX(${x}px)`, top: `${yaxis._offset}px`, height: `${yaxis._length}px` });
  Object.assign(byId("beyond").style, { left: `${x}px`, width: `${Math.max(0, end - x)}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px` });
  const handle = byId("handle");
  handle.textContent = limit === undefined ? "no limit" : `≤ ${short(limit)}`;
  const half = handle.offsetWidth / 2;
  const kept = Math.min(Math.max(x, half), byId("front").clientWidth - half);
  handle.style.transform = `translate(${kept - half}px, ${yaxis._offset - handle.offsetHeight - 2}px)`;
  byId("overlay").classList.toggle("unlimited", limit === undefined);
  for (const [id, trial] of [["ring-chosen", state.chosen], ["ring-compared", state.compared]]) {
    const at = trial && trial.values[state.cost] !== undefined ? trial : null;
    moveTo(byId(id), at && placeOf(xaxis, at.values[state.cost]), at && placeOf(yaxis, shownQuality(at)));
  }
}
