// Hypervolume over time, with what the baselines alone reach.

async function drawHistory() {
  const { finished, seconds, hypervolume, baselines } = data.history;
  const line = { xref: "paper", x0: 0, x1: 1, y0: baselines, y1: baselines, line: { color: css("--quiet"), width: 1, dash: "dot" } };
  const layout = plainLayout("trials finished", "hypervolume");
  const hours = seconds.map((value) => (value < 6000 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`));
  const trace = {
    type: "scatter",
    mode: finished.length < 60 ? "lines+markers" : "lines",
    x: finished,
    y: hypervolume,
    text: hours,
    hovertemplate: "%{x} trials, %{text}<br>hypervolume %{y:.4f}<extra></extra>",
    line: { shape: "hv", color: css("--front"), width: 2 },
    marker: { size: 5 },
  };
  const note = { text: `baselines alone: ${baselines.toFixed(4)}`, xref: "paper", x: 1, xanchor: "right", y: baselines, yanchor: "top", showarrow: false, font: { size: 11 } };
  await Plotly.react(
    byId("history"),
    [trace],
    {
      ...layout,
      margin: { ...layout.margin, t: 16 },
      yaxis: { ...layout.yaxis, rangemode: "normal" },
      shapes: baselines > 0 ? [line] : [],
      annotations: baselines > 0 ? [note] : [],
      dragmode: false,
    },
    PLOT_SETTINGS,
  );
}

function historyText() {
  const { finished, hypervolume, seconds, baselines } = data.history;
  if (!finished.length) return "";
  const at = (share) => {
    const place = Math.max(0, Math.ceil(share * finished.length) - 1);
    return `${hypervolume[place].toFixed(4)} after ${finished[place]} trials`;
  };
  const time = seconds.at(-1) < 6000 ? `${(seconds.at(-1) / 60).toFixed(1)} minutes` : `${(seconds.at(-1) / 3600).toFixed(1)} hours`;
  const alone = baselines > 0 ? ` The baselines alone reach ${baselines.toFixed(4)}.` : "";
  return `${[0.25, 0.5, 1].map(at).join(", ")}, ${time} in all.${alone}`;
}
