"use strict";

function linesOf(curves, metric, chosen) {
  const lines = [], bands = [];
  for (const curve of curves) {
    if (!curve[metric]) continue;
    const isChosen = curve.strategy === chosen;
    const colour = metric === "honest_accuracy_mean" ? "honest" : "byzantine";
    lines.push({ name: curve.strategy, kind: isChosen ? colour : "other", values: curve[metric].mean });
    if (isChosen) bands.push([curve[metric].low, curve[metric].high]);
  }
  return { lines: lines.sort((a, b) => (a.kind === "other" ? 0 : 1) - (b.kind === "other" ? 0 : 1)), bands };
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.rounds.length) return;
  const [metric, strategy, setting] = ["metric", "strategy", "setting"].map((id) => document.getElementById(id));
  const figures = data.attacks.map((attack, index) => document.getElementById(`attack-${index}`));
  const charts = data.attacks.map((attack, index) => {
    const spec = { title: attack, unit: "share", lines: [], bands: [], nodes: null };
    const chart = new LineChart(figures[index], spec, data.rounds, (round) => control.set(round));
    keepDrawn(chart.plot, () => chart.draw());
    return chart;
  });
  const control = new RoundControl(data.rounds, [(index) => charts.forEach((chart) => chart.setRound(index))]);
  const choose = () => {
    data.attacks.forEach((attack, index) => {
      const curves = data.curves.filter((curve) => curve.attack === attack && curve.setting === setting.value);
      const { lines, bands } = linesOf(curves, metric.value, strategy.value);
      figures[index].hidden = !lines.length;
      charts[index].setLines(lines, bands);
    });
  };
  for (const select of [metric, strategy, setting]) select.addEventListener("change", choose);
  choose();
  control.set(data.rounds.length - 1);
  performance.mark("ready");
}

start();
