"use strict";

const SPACE = "\u202f";

function svg(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function html(name, properties, parent) {
  const made = Object.assign(document.createElement(name), properties);
  if (parent) parent.append(made);
  return made;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

const FORMATS = {
  share: (value) => (100 * value).toFixed(1) + SPACE + "%",
  count: (value) => value.toLocaleString("en"),
  number: (value) => (value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(3)))),
  bytes: (value) => {
    const power = value < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
    return Number((value / 1000 ** power).toPrecision(3)) + SPACE + ["B", "kB", "MB", "GB", "TB"][power];
  },
};

function niceTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step + 0; tick <= high + step * 1e-6; tick += step) ticks.push(tick);
  return ticks;
}

/* Lines over the rounds with direct labels. `spec` is a Chart of series.py; extra lines of single nodes come and go. */
class LineChart {
  constructor(figure, spec, rounds, onRound) {
    Object.assign(this, { spec, rounds, onRound, extra: [], index: rounds.length - 1 });
    this.readout = figure.querySelector(".readout");
    this.plot = figure.querySelector(".plot");
    this.packed = spec.nodes && new Uint16Array(bytesOf(spec.nodes.packed).buffer);
    this.plot.addEventListener("pointermove", (event) => this.show(this.nearest(event)));
    this.plot.addEventListener("pointerleave", () => this.show(this.index));
    this.plot.addEventListener("click", (event) => onRound(this.nearest(event)));
  }

  nodeValues(node) {
    const row = this.spec.nodes ? this.spec.nodes.nodes.indexOf(node) : -1;
    if (row < 0) return null;
    const values = this.packed.subarray(row * this.rounds.length, (row + 1) * this.rounds.length);
    return Array.from(values, (value) => (value === 65535 ? null : value / 65534));
  }

  setNodes(nodes) {
    this.extra = [];
    for (const node of nodes) {
      const values = this.nodeValues(node);
      if (values) this.extra.push({ name: `node ${node}`, kind: nodes.length === 1 ? "node" : "every", values });
    }
    this.draw();
  }

  setLines(lines, bands) {
    Object.assign(this.spec, { lines, bands });
    this.draw();
  }

  nearest(event) {
    const box = this.plot.getBoundingClientRect();
    const position = (event.clientX - box.left - this.left) / (this.right - this.left);
    const first = this.rounds[0], last = this.rounds[this.rounds.length - 1];
    const wanted = first + position * (last - first);
    let best = 0;
    this.rounds.forEach((round, index) => { if (Math.abs(round - wanted) < Math.abs(this.rounds[best] - wanted)) best = index; });
    return best;
  }

  x(index) {
    const first = this.rounds[0], last = this.rounds[this.rounds.length - 1];
    return last === first ? (this.left + this.right) / 2 : this.left + ((this.rounds[index] - first) / (last - first)) * (this.right - this.left);
  }

  y(value) { return this.bottom - ((value - this.low) / (this.high - this.low)) * (this.bottom - this.top); }

  draw() {
    const width = Math.max(240, Math.floor(this.plot.clientWidth)), height = 190;
    const lines = [...this.spec.lines, ...this.extra];
    const labelled = lines.filter((line) => line.kind !== "every" && (line.kind !== "other" || lines.length <= 8));
    Object.assign(this, { left: 56, right: width - 106, top: 10, bottom: height - 26 });
    const values = lines.concat(this.spec.bands.flat().map((band) => ({ values: band }))).flatMap((line) => line.values).filter((value) => value !== null);
    this.low = 0;
    this.high = this.spec.unit === "share" ? 1 : Math.max(...values, 0) * 1.05 || 1;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.describe() });
    this.axes(root);
    const tone = (this.spec.lines.findLast((line) => line.kind !== "other") || { kind: "" }).kind.split(" ")[0];
    for (const [low, high] of this.spec.bands) this.band(root, low, high, tone);
    for (const line of [...this.extra.filter((each) => each.kind === "every"), ...lines.filter((each) => each.kind !== "every")]) {
      svg("path", { d: this.path(line.values), class: `line ${line.kind}` }, root);
    }
    this.labels(root, labelled);
    this.now = svg("g", {}, root);
    this.plot.replaceChildren(root);
    this.show(this.index);
  }

  axes(root) {
    const format = FORMATS[this.spec.unit];
    for (const tick of this.spec.unit === "share" ? [0, 0.25, 0.5, 0.75, 1] : niceTicks(this.low, this.high, 4)) {
      const y = this.y(tick);
      svg("line", { x1: this.left, x2: this.right, y1: y, y2: y, class: "grid" }, root);
      svg("text", { x: this.left - 7, y: y + 4, "text-anchor": "end" }, root, this.spec.unit === "share" ? Math.round(100 * tick) + SPACE + "%" : format(tick));
    }
    const first = this.rounds[0], last = this.rounds[this.rounds.length - 1];
    const most = Math.max(2, Math.floor((this.right - this.left) / 50));
    const apart = (last - first) / (2 * most);
    const between = niceTicks(first, last, most).filter((round) => Number.isInteger(round) && round - first >= apart && last - round >= apart);
    for (const tick of new Set([first, ...between, last])) {
      const x = last === first ? (this.left + this.right) / 2 : this.left + ((tick - first) / (last - first)) * (this.right - this.left);
      svg("text", { x, y: this.bottom + 17, "text-anchor": "middle" }, root, tick);
    }
    svg("text", { x: this.left - 7, y: this.bottom + 17, "text-anchor": "end" }, root, "round");
  }

  path(values) {
    let path = "";
    values.forEach((value, index) => { if (value !== null) path += `${path ? "L" : "M"}${this.x(index).toFixed(1)} ${this.y(value).toFixed(1)}`; });
    return path.includes("L") ? path : path && path + "h0.01";
  }

  band(root, low, high, tone) {
    const there = low.map((value, index) => index).filter((index) => low[index] !== null && high[index] !== null);
    if (there.length < 2) return;
    const point = (values) => (index) => `${this.x(index).toFixed(1)} ${this.y(values[index]).toFixed(1)}`;
    svg("path", { d: `M${there.map(point(high)).join("L")}L${there.reverse().map(point(low)).join("L")}Z`, class: `band ${tone}` }, root);
  }

  labels(root, lines) {
    const placed = lines
      .map((line) => ({ line, last: line.values.findLast((value) => value !== null) }))
      .filter(({ last }) => last !== undefined)
      .map(({ line, last }) => ({ line, y: this.y(last) + 4 }))
      .sort((a, b) => a.y - b.y);
    placed.forEach((label, index) => { if (index) label.y = Math.max(label.y, placed[index - 1].y + 14); });
    const overflow = placed.length ? placed[placed.length - 1].y - (this.bottom + 4) : 0;
    if (overflow > 0) {
      placed[placed.length - 1].y -= overflow;
      for (let index = placed.length - 2; index >= 0; index--) placed[index].y = Math.min(placed[index].y, placed[index + 1].y - 14);
    }
    for (const { line, y } of placed) {
      const text = svg("text", { x: this.right + 8, y, class: line.kind.split(" ")[0] }, root, line.name);
      if (line.name.length > 15) { text.textContent = line.name.slice(0, 14) + "…"; svg("title", {}, text, line.name); }
    }
  }

  show(index) {
    if (!this.now) return;
    const lines = [...this.spec.lines, ...this.extra];
    const shown = lines.filter((line) => line.kind !== "every" && line.kind !== "other");
    const x = this.x(index);
    this.now.replaceChildren(svg("line", { x1: x, x2: x, y1: this.top, y2: this.bottom, class: "now" }));
    for (const line of shown) {
      if (line.values[index] !== null) svg("circle", { cx: x, cy: this.y(line.values[index]), r: 3.2, class: `dot ${line.kind}` }, this.now);
    }
    const parts = shown.map((line) => `${line.name} ${line.values[index] === null ? "–" : FORMATS[this.spec.unit](line.values[index])}`);
    this.readout.textContent = `Round ${this.rounds[index]}: ${parts.join(", ") || "–"}`;
  }

  setRound(index) { this.index = index; this.show(index); }

  describe() {
    const ends = this.spec.lines.map((line) => {
      const there = line.values.filter((value) => value !== null);
      return there.length ? `${line.name} from ${FORMATS[this.spec.unit](there[0])} to ${FORMATS[this.spec.unit](there[there.length - 1])}` : "";
    });
    return `${this.spec.title}, rounds ${this.rounds[0]} to ${this.rounds[this.rounds.length - 1]}: ${ends.filter(Boolean).join("; ")}.`;
  }
}

/* Slider, play button and arrow keys share one round. */
class RoundControl {
  constructor(rounds, listeners) {
    Object.assign(this, { rounds, listeners, timer: 0 });
    this.slider = document.getElementById("round");
    this.where = document.getElementById("where");
    this.button = document.getElementById("play");
    this.slider.addEventListener("input", () => this.set(Number(this.slider.value)));
    this.button.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.target.closest(".scroll")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); this.stop(); this.set(this.index + step); }
  }

  set(index) {
    this.index = Math.max(0, Math.min(this.rounds.length - 1, index));
    this.slider.value = this.index;
    this.where.textContent = `Round ${this.rounds[this.index]} of ${this.rounds[this.rounds.length - 1]}`;
    this.slider.setAttribute("aria-valuetext", this.where.textContent);
    for (const listener of this.listeners) listener(this.index, this.rounds[this.index]);
  }

  play() {
    if (this.index === this.rounds.length - 1) this.set(0);
    this.button.textContent = "Pause";
    const pace = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1500 : Math.max(120, Math.min(700, 15000 / this.rounds.length));
    this.timer = setInterval(() => {
      this.set(this.index + 1);
      if (this.index === this.rounds.length - 1) this.stop();
    }, pace);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.button.textContent = "Play";
  }
}

/* Redraw when the width changes, and for print. */
function keepDrawn(container, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (container.clientWidth && container.clientWidth !== width) { width = container.clientWidth; draw(); }
  }).observe(container);
}
