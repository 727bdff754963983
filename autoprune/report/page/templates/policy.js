// Two policies side by side: cards with costs and the command, and per group how many channels are kept.

const policies = data.policies;
const widest = Math.max(1, ...policies.groups.filter((group) => group.known).map((group) => group.channels));

const keptOf = (trial, place) =>
  parseInt(policies.kept[trial.place].slice(place * policies.width, (place + 1) * policies.width), 36);

function criterionOf(trial, place) {
  const width = policies.code_width;
  const code = policies.criterion[trial.place].slice(place * width, (place + 1) * width);
  return code.startsWith(".") ? null : parseInt(code, 36);
}

function droppedWith(trial, group) {
  const names = policies.dropped[trial.place].map((place) => policies.blocks[place]);
  return names.find((name) => group.name === name || group.name.startsWith(`${name}.`)) ?? null;
}

function groupCell(trial, place) {
  const group = policies.groups[place];
  const dropped = droppedWith(trial, group);
  if (dropped) return element("td", { class: "gone" }, "dropped with its block");
  const kept = keptOf(trial, place);
  const criterion = criterionOf(trial, place);
  const fill = element("i");
  fill.style.width = `${(100 * kept) / group.channels}%`;
  if (criterion !== null) fill.style.background = `var(--c${criterion % 8})`;
  const bar = element("span", { class: "channels", "aria-hidden": "true" }, fill);
  bar.style.width = `${group.known ? Math.max(8, (100 * group.channels) / widest) : 100}%`;
  const count = group.known ? `${kept} of ${group.channels}` : `${(kept / 10).toFixed(1)} %`;
  const how = criterion === null ? "whole" : policies.criteria[criterion];
  return element("td", {}, bar, element("span", { class: "count" }, count), element("span", { class: "how" }, how));
}

function blockCell(trial, place) {
  const gone = policies.dropped[trial.place].includes(place);
  return element("td", { class: gone ? "gone" : "" }, gone ? "dropped whole" : "kept");
}

function maskCell(trial, place) {
  const mask = policies.masks[trial.place];
  const share = mask?.layers[place];
  if (!share) return element("td", {}, "no mask");
  const fill = element("i");
  fill.style.width = `${100 * (1 - share)}%`;
  const bar = element("span", { class: "channels", "aria-hidden": "true" }, fill);
  const words = `${percent(share, 0)} of weights zero`;
  return element("td", {}, bar, element("span", { class: "count" }, words), element("span", { class: "how" }, `${mask.pattern}, ${mask.criterion}`));
}

function drawPolicies(one, other) {
  const head = [["Group", one], ["", other]];
  const columns = head.map(([, trial]) => trial);
  const title = (trial) => element("th", { scope: "col" }, trial ? `Trial ${trial.number}` : "–");
  const rows = [];
  const add = (name, cell) =>
    rows.push(element("tr", {}, element("th", { scope: "row" }, name), ...columns.map((trial) => (trial ? cell(trial) : element("td")))));
  policies.blocks.forEach((name, place) => add(`block ${name}`, (trial) => blockCell(trial, place)));
  policies.groups.forEach((group, place) => add(group.name, (trial) => groupCell(trial, place)));
  policies.layers.forEach((name, place) => add(`mask ${name}`, (trial) => maskCell(trial, place)));
  const table = byId("policy-table");
  table.tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Group"), ...columns.map(title)));
  table.tBodies[0].replaceChildren(...rows);
}

function criteriaLegend() {
  const entries = policies.criteria.map((name, place) => {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = `var(--c${place % 8})`;
    return element("li", {}, swatch, name);
  });
  byId("criteria").replaceChildren(...entries, element("li", {}, element("span", { class: "swatch whole", "aria-hidden": "true" }), "whole"));
}

function commandBox(trial, limits) {
  const text = pickCommand(trial, limits);
  const code = element("code", { class: "command", tabindex: "0" }, text);
  const button = element("button", { type: "button", class: "copy", "aria-label": `Copy the command that picks trial ${trial.number}` }, "Copy");
  button.addEventListener("click", () => copy(text, button, code));
  const box = element("div", { class: "command-box" }, code, button);
  return data.elsewhere ? element("div", {}, box, element("p", { class: "quiet" }, "with the same --storage as this report")) : box;
}

async function copy(text, button, code) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    getSelection().selectAllChildren(code); // a page opened from a file may not reach the clipboard
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Press Ctrl-C";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function card(trial, limits) {
  if (!trial) return element("p", { class: "notice" }, "No completed trial meets these limits.");
  const known = data.qualities.filter((one) => trial.values[one.name] !== undefined);
  const rows = known.map((one) => [one.title, qualityText(trial, one), gapText(trial, one)]);
  if (trial.values.loss !== undefined && !known.some((one) => one.name === "loss")) rows.push(["Validation loss", trial.values.loss.toFixed(4), ""]);
  for (const name of data.costs) rows.push([data.titles[name], costText(trial, name), ratioText(trial, name)]);
  const line = ([term, value, ratio]) =>
    element("tr", {}, element("th", { scope: "row" }, term), element("td", { class: "number" }, value), element("td", { class: "number quiet" }, ratio));
  const head = element("tr", {}, ...["", `Trial ${trial.number}`, "against dense"].map((text, index) => element("th", { scope: "col", class: index ? "number" : "" }, text)));
  const role = [trial.baseline ? `${trial.origin} baseline` : `proposed as ${trial.origin}`];
  if (onFront.has(trial.number)) role.push("on the front");
  if (trial.number === data.knee) role.push("knee of the front");
  const over = Object.entries(limits).filter(([name]) => !meets(trial, { [name]: limits[name] }));
  if (over.length) role.push(`over the limit of ${over.map(([name, limit]) => short(limit) + unitOf(name)).join(" and ")}`);
  const table = element("table", { class: "costs" }, element("thead", {}, head), element("tbody", {}, ...rows.map(line)));
  return element("div", {}, element("p", { class: "role" }, role.join(" · ")), table, commandBox(trial, limits));
}

function compareOptions(state) {
  const option = (trial, note) => element("option", { value: trial.number }, `${trial.number} ${note}`);
  const group = (label, options) => element("optgroup", { label }, ...options);
  const baselines = data.baselines.map((number) => byNumber.get(number));
  const listed = new Set([...data.baselines, ...data.front]);
  const groups = [
    group("Baselines", baselines.map((trial) => option(trial, trial.origin))),
    group("Front", data.front.map((number) => option(byNumber.get(number), qualityShort(byNumber.get(number))))),
  ];
  if (state.compared && !listed.has(state.compared.number)) groups.push(group("Chosen by number", [option(state.compared, state.compared.origin)]));
  byId("compare").replaceChildren(...groups.filter((one) => one.children.length));
  byId("compare").value = state.compared ? String(state.compared.number) : "";
}
