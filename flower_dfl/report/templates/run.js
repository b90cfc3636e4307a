"use strict";

const MISSING = 1, DROPPED = 2, REJECTED = 3, UNKNOWN = 4, TRUSTED = 5;
const KINDS = { [MISSING]: "missing", [DROPPED]: "dropped", [REJECTED]: "rejected", [UNKNOWN]: "unknown" };
const SAID = { trusted: "trusted", missing: "missing", dropped: "dropped by ingress", rejected: "rejected", unknown: "weight not finite" };

const kindOf = (code) => (code >= TRUSTED ? "trusted" : KINDS[code]);
const weightOf = (code) => (code - TRUSTED) / 250;
const from = (isByzantine) => (isByzantine ? "from-byzantine" : "from-honest");

/* The end of an edge at the sender: arrow trusted, bar rejected, cross dropped, ring missing. */
function glyph(kind, x, y, angle, size) {
  const at = (along, across) => `${(x - along * Math.cos(angle) - across * Math.sin(angle)).toFixed(1)} ${(y - along * Math.sin(angle) + across * Math.cos(angle)).toFixed(1)}`;
  if (kind === "trusted") return `M${at(0, 0)}L${at(2 * size, size)}L${at(2 * size, -size)}Z`;
  if (kind === "rejected") return `M${at(1, size)}L${at(1, -size)}`;
  if (kind === "dropped") return `M${at(0, size)}L${at(2 * size, -size)}M${at(0, -size)}L${at(2 * size, size)}`;
  if (kind === "missing") return `M${at(0, 0)}A${size} ${size} 0 1 1 ${at(2 * size, 0)}A${size} ${size} 0 1 1 ${at(0, 0)}Z`;
  return "";
}

class Trust {
  constructor(data, onNode) {
    Object.assign(this, { data: data.trust, nodes: data.byzantine, down: data.down, onNode, index: 0, round: 0, node: null });
    this.frames = this.data.frames.map(() => null);
    this.graph = document.getElementById("graph");
    this.heat = document.getElementById("heat");
    this.everyone = document.getElementById("everyone");
    this.order = this.nodes.map((_, node) => node).sort((a, b) => this.nodes[a] - this.nodes[b] || a - b);
    this.everyone.addEventListener("change", () => this.draw());
    keepDrawn(this.graph || this.heat, () => this.draw());
  }

  frame() {
    this.frames[this.index] ??= bytesOf(this.data.frames[this.index]);
    return this.frames[this.index];
  }

  edges() {
    const bytes = this.frame(), edges = [];
    for (let i = 0; i < bytes.length; i += 3) {
      const [receiver, sender, code] = bytes.subarray(i, i + 3);
      if (this.everyone.checked || !this.nodes[receiver]) edges.push({ receiver, sender, code, kind: kindOf(code) });
    }
    return edges;
  }

  setRound(round) {
    this.index = Math.max(0, this.data.rounds.findLastIndex((kept) => kept <= round));
    this.round = round;
    this.draw();
  }

  setNode(node) { this.node = node; this.draw(); }

  draw() {
    const shown = this.data.rounds[this.index];
    document.getElementById("decided").textContent = `Round ${shown}: ${this.data.summaries[this.index]}`;
    if (this.data.groups) { this.drawGroups(); return; }
    const edges = this.edges();
    this.drawGraph(edges);
    this.drawHeat(edges);
    this.drawReasons(shown);
  }

  drawGraph(edges) {
    const side = Math.max(260, Math.min(560, this.graph.clientWidth)), few = this.nodes.length <= 40;
    const radius = few ? Math.max(11, Math.min(16, side / 30)) : 5, margin = radius + 6;
    const at = this.data.positions.map(([x, y]) => [margin + x * (side - 2 * margin), margin + y * (side - 2 * margin)]);
    const root = svg("svg", { viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": "Graph of who trusts whom. " + document.getElementById("decided").textContent });
    const heaviest = Math.max(0.01, ...edges.map((edge) => (edge.code > TRUSTED ? weightOf(edge.code) : 0)));
    const concerns = (edge) => this.node === null || edge.receiver === this.node || edge.sender === this.node;
    const rank = { trusted: 2, unknown: 1 };
    for (const edge of edges.sort((a, b) => (rank[a.kind] || 0) - (rank[b.kind] || 0))) {
      const [x1, y1] = at[edge.receiver], [x2, y2] = at[edge.sender];
      const length = Math.hypot(x2 - x1, y2 - y1) || 1, bend = 0.09;
      const mx = (x1 + x2) / 2 - bend * (y2 - y1), my = (y1 + y2) / 2 + bend * (x2 - x1);
      const end = Math.atan2(y2 - my, x2 - mx), start = Math.atan2(my - y1, mx - x1), gap = Math.min(radius + (few ? 6 : 2), length / 3);
      const ex = x2 - gap * Math.cos(end), ey = y2 - gap * Math.sin(end);
      const tone = `${edge.kind} ${from(this.nodes[edge.sender])}${concerns(edge) ? "" : " faint"}`;
      const path = svg("path", { d: `M${x1 + gap * Math.cos(start)} ${y1 + gap * Math.sin(start)}Q${mx} ${my} ${ex} ${ey}`, class: `edge ${tone}` }, root);
      path.dataset.edge = `${edge.receiver}-${edge.sender}`;
      if (edge.kind === "trusted") path.style.strokeWidth = (few ? 1 + 1.8 * (weightOf(edge.code) / heaviest) : 0.9).toFixed(2);
      svg("path", { d: glyph(edge.kind, ex, ey, end, few ? 4.2 : 2.2), class: `glyph ${tone}` }, root);
    }
    this.nodes.forEach((isByzantine, node) => this.drawNode(root, node, isByzantine, at[node], radius, few));
    this.graph.replaceChildren(root);
  }

  drawNode(root, node, isByzantine, [x, y], radius, few) {
    const flag = (this.down[this.round] || {})[node];
    const group = svg("g", { class: `vertex ${isByzantine ? "byzantine" : "honest"}${flag ? " down" : ""}${node === this.node ? " selected" : ""}` }, root);
    const half = radius * 0.9;
    if (isByzantine) svg("rect", { x: x - half, y: y - half, width: 2 * half, height: 2 * half, class: "body" }, group);
    else svg("circle", { cx: x, cy: y, r: radius, class: "body" }, group);
    if (few) svg("text", { x, y: y + 4.5 }, group, node);
    svg("title", {}, group, `node ${node}, ${isByzantine ? "Byzantine" : "honest"}${flag ? ", " + flag : ""}`);
    group.addEventListener("click", () => this.onNode(node === this.node ? null : node));
  }

  drawHeat(edges) {
    const rows = this.order.filter((node) => this.everyone.checked || !this.nodes[node]), columns = this.order;
    const places = this.heatFrame(rows.length, columns.length, rows.map((node) => this.nodes[node]), columns.map((node) => this.nodes[node]), rows, columns);
    const { root, size, left, top } = places;
    const row = new Map(rows.map((node, index) => [node, index])), column = new Map(columns.map((node, index) => [node, index]));
    const heaviest = Math.max(0.01, ...edges.map((edge) => (edge.code > TRUSTED ? weightOf(edge.code) : 0)));
    for (const edge of edges) {
      const x = left + column.get(edge.sender) * size, y = top + row.get(edge.receiver) * size;
      const mark = this.mark(edge, x, y, size, heaviest, root);
      if (mark) svg("title", {}, mark, `${edge.receiver} on ${edge.sender}: ${edge.kind === "trusted" ? "trusted, weight " + FORMATS.number(weightOf(edge.code)) : SAID[edge.kind]}`);
    }
    if (this.node !== null) {
      if (row.has(this.node)) svg("rect", { x: left, y: top + row.get(this.node) * size, width: size * columns.length, height: size, class: "cursor" }, root);
      svg("rect", { x: left + column.get(this.node) * size, y: top, width: size, height: size * rows.length, class: "cursor" }, root);
    }
    this.heat.replaceChildren(root);
  }

  mark(edge, x, y, size, heaviest, root) {
    const tone = from(this.nodes[edge.sender]), a = size * 0.3, b = size * 0.7, gap = size > 8 ? 1 : 0;
    if (edge.kind === "trusted") {
      return svg("rect", { x: x + gap, y: y + gap, width: size - 2 * gap, height: size - 2 * gap, class: `cell ${tone}`, opacity: (0.3 + 0.7 * (weightOf(edge.code) / heaviest)).toFixed(2) }, root);
    }
    if (edge.kind === "rejected") {
      if (size < 8) return svg("rect", { x: x + size * 0.35, y: y + size * 0.35, width: size * 0.3, height: size * 0.3, class: `mark fill ${tone}`, opacity: 0.6 }, root);
      return svg("path", { d: `M${x + a} ${y + size / 2}H${x + b}`, class: `mark ${tone}` }, root);
    }
    if (edge.kind === "dropped") return svg("path", { d: `M${x + a} ${y + a}L${x + b} ${y + b}M${x + a} ${y + b}L${x + b} ${y + a}`, class: `mark ${tone}` }, root);
    if (edge.kind === "missing") return svg("circle", { cx: x + size / 2, cy: y + size / 2, r: size * 0.2, class: `mark ${tone}` }, root);
    return svg("text", { x: x + size / 2, y: y + size * 0.7, "text-anchor": "middle" }, root, "?");
  }

  heatFrame(rowCount, columnCount, rowSides, columnSides, rowNames, columnNames) {
    const width = Math.max(260, Math.min(560, this.heat.clientWidth)), left = 62, top = 40;
    const size = Math.min(36, (width - left - 2) / columnCount), height = top + rowCount * size + 8;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Heat map of who trusts whom. " + document.getElementById("decided").textContent });
    const text = (x, y, anchor, words, tone) => svg("text", { x, y, "text-anchor": anchor, class: tone || "" }, root, words);
    const honestRows = rowSides.filter((side) => !side).length, honestColumns = columnSides.filter((side) => !side).length;
    const right = left + columnCount * size, edge = left + honestColumns * size;
    const some = honestColumns < columnCount, split = Math.max(left + 96, Math.min(edge, right - 112));
    text(some ? Math.min((left + edge) / 2, split - 48) : (left + edge) / 2, 12, "middle", "honest senders", "honest");
    if (some) text(Math.max((edge + right) / 2, split + 58), 12, "middle", "Byzantine senders", "byzantine");
    if (size >= 13 && columnNames) {
      columnNames.forEach((name, index) => text(left + (index + 0.5) * size, 30, "middle", name));
      rowNames.forEach((name, index) => text(left - 8, top + (index + 0.5) * size + 4, "end", name));
    }
    const side = (y, words, tone) => svg("text", { x: 0, y: 0, "text-anchor": "middle", class: tone, transform: `translate(${columnNames && size >= 13 ? 22 : 46} ${y}) rotate(-90)` }, root, words);
    if (honestRows * size > 40) side(top + (honestRows * size) / 2, honestRows * size > 100 ? "honest receivers" : "receivers", "honest");
    if ((rowCount - honestRows) * size > 110) side(top + ((honestRows + rowCount) * size) / 2, "Byzantine receivers", "byzantine");
    svg("rect", { x: left, y: top, width: columnCount * size, height: rowCount * size, class: "frame" }, root);
    if (honestColumns < columnCount) svg("line", { x1: left + honestColumns * size, x2: left + honestColumns * size, y1: top, y2: top + rowCount * size, class: "grid" }, root);
    if (honestRows < rowCount) svg("line", { x1: left, x2: left + columnCount * size, y1: top + honestRows * size, y2: top + honestRows * size, class: "grid" }, root);
    return { root, size, left, top };
  }

  drawGroups() {
    const groups = this.data.groups, shares = this.frame(), count = groups.length;
    const rows = groups.map((_, index) => index).filter((index) => this.everyone.checked || !groups[index].byzantine);
    const { root, size, left, top } = this.heatFrame(rows.length, count, rows.map((index) => groups[index].byzantine), groups.map((group) => group.byzantine), null, null);
    const named = (group) => (group.first === group.last ? `node ${group.first}` : `${group.size} nodes (${group.first} to ${group.last})`);
    rows.forEach((receiver, row) => {
      groups.forEach((sender, column) => {
        const value = shares[receiver * count + column];
        if (!value) return;
        const share = (value - 1) / 254, inner = share ? 0 : size * 0.35;
        const cell = svg("rect", { x: left + column * size + inner, y: top + row * size + inner, width: size - 2 * inner, height: size - 2 * inner, class: `cell ${from(sender.byzantine)}`, opacity: share ? (0.15 + 0.85 * share).toFixed(2) : 0.6 }, root);
        svg("title", {}, cell, `${named(groups[receiver])} trusted ${FORMATS.share(share)} of the messages from ${named(sender)}`);
      });
    });
    this.heat.replaceChildren(root);
  }

  drawReasons(round) {
    const place = document.getElementById("reasons");
    if (this.node === null) {
      place.replaceChildren(html("p", { className: "note", textContent: "Choose a node, above or in the graph, to see its decisions and what they rest on." }));
      return;
    }
    const bytes = this.frame(), received = [], trustedBy = [];
    const { names, rows } = this.data.scores || { names: ["weight"], rows: null };
    for (let i = 0; i < bytes.length; i += 3) {
      const [receiver, sender, code] = bytes.subarray(i, i + 3);
      const known = rows ? rows[this.index][i / 3] : [code >= REJECTED && code !== UNKNOWN ? Math.max(0, weightOf(code)) : null];
      if (receiver === this.node) received.push({ sender, code, known });
      if (sender === this.node && code >= TRUSTED && !this.nodes[receiver]) trustedBy.push(receiver);
    }
    const used = names.map((_, column) => column).filter((column) => column === 0 || received.some(({ known }) => known[column] !== null));
    const table = html("table", {});
    const words = html("p", { className: "note", textContent: `What node ${this.node}, ${this.nodes[this.node] ? "Byzantine" : "honest"}, decided in round ${round}. Honest nodes that trusted it: ${trustedBy.join(", ") || "none"}.` });
    const head = html("tr", {}, html("thead", {}, table));
    for (const name of ["sender", "decision"]) html("th", { scope: "col", textContent: name }, head);
    for (const column of used) html("th", { scope: "col", textContent: names[column], className: "number" }, head);
    const body = html("tbody", {}, table);
    for (const { sender, code, known } of received.sort((a, b) => a.sender - b.sender)) {
      const line = html("tr", {}, body), kind = kindOf(code);
      const label = html("th", { scope: "row", className: `tag ${this.nodes[sender] ? "byzantine" : "honest"}`, textContent: `${this.nodes[sender] ? "■" : "●"} ${sender}` }, line);
      label.setAttribute("aria-label", `${sender}, ${this.nodes[sender] ? "Byzantine" : "honest"}`);
      html("td", { textContent: SAID[kind] }, line);
      for (const column of used) html("td", { className: "number", textContent: known[column] === null ? "–" : FORMATS.number(known[column]) }, line);
    }
    const scroll = html("div", { className: "scroll", tabIndex: 0 });
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `Decisions of node ${this.node}`);
    scroll.append(table);
    place.replaceChildren(words, scroll);
  }
}

function drawHistograms(container, histograms) {
  for (const entry of histograms) {
    const figure = html("figure", {}, container), side = entry.byzantine ? "byzantine" : "honest";
    const caption = html("figcaption", {}, figure);
    html("span", { className: `tag ${side}`, textContent: `${entry.byzantine ? "■" : "●"} ${entry.name}` }, caption);
    html("span", { className: "muted", textContent: ` ${entry.examples.toLocaleString("en")}` }, caption);
    const count = entry.counts.length, most = Math.max(...entry.counts, 1);
    const root = svg("svg", { viewBox: `0 0 ${count * 10} 44`, preserveAspectRatio: "none", role: "img", "aria-label": `${entry.name}, ${side === "honest" ? "honest" : "Byzantine"}: ${entry.counts.map((n, label) => `label ${label}: ${n}`).join(", ")}` }, figure);
    svg("line", { x1: 0, x2: count * 10, y1: 43.5, y2: 43.5, class: "grid" }, root);
    entry.counts.forEach((n, label) => {
      const height = (40 * n) / most;
      svg("title", {}, svg("rect", { x: label * 10 + 1, y: 43 - height, width: 8, height, class: `bar ${side}` }, root), `label ${label}: ${n.toLocaleString("en")}`);
    });
  }
}

function showDummies(round) {
  const images = [...document.querySelectorAll("img[data-round]")];
  const kept = [...new Set(images.map((image) => Number(image.dataset.round)))];
  const shown = Math.max(...kept.filter((each) => each <= round), Math.min(...kept));
  for (const image of images) image.hidden = Number(image.dataset.round) !== shown;
  const said = document.getElementById("dummy-round");
  if (said) said.textContent = `Round ${shown}`;
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chooser = document.getElementById("node");
  drawHistograms(document.getElementById("histograms") || html("div", {}), data.histograms);
  if (!data.rounds.length) return;
  const charts = data.charts.map((spec) => {
    const chart = new LineChart(document.getElementById(spec.id), spec, data.rounds, (index) => control.set(index));
    keepDrawn(chart.plot, () => chart.draw());
    return chart;
  });
  const choose = (value) => {
    chooser.value = value === null ? "" : String(value);
    const single = value === null || value === "all" ? null : value;
    const curves = data.charts.map((spec) => spec.nodes && spec.nodes.nodes).find(Boolean) || [];
    for (const chart of charts) if (chart.spec.nodes) chart.setNodes(value === "all" ? curves : single === null ? [] : [single]);
    if (trust) trust.setNode(single);
  };
  const trust = data.trust && new Trust(data, choose);
  const control = new RoundControl(data.rounds, [
    (index) => charts.forEach((chart) => chart.setRound(index)),
    (_, round) => trust && trust.setRound(round),
    (_, round) => showDummies(round),
  ]);
  chooser.addEventListener("change", () => choose(chooser.value === "" ? null : chooser.value === "all" ? "all" : Number(chooser.value)));
  control.set(data.rounds.length - 1);
  performance.mark("ready");
}

start();
