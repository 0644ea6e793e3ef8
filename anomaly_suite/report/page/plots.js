"use strict";
// Plots as SVG by hand. Scales map values to pixels of a view box; the browser scales that to the page.

const NAMES = { 0: "normal", 1: "anomalous", 2: "unlabelled" };
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const short = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : value > 0 ? "∞" : value < 0 ? "−∞" : "none");

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

// A plot of its own width and height, with axes; `x` and `y` are functions from values to pixels.
function frame({ width, height, xs, ys, xlabel, ylabel, title, xticks = 5, yticks = 4 }) {
  const left = 52, right = 12, top = 26, bottom = 40;
  const x = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
  const y = (value) => height - bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const value of ticks(ys[0], ys[1], yticks)) {
    root.append(svg("path", { class: "grid", d: `M${left} ${y(value)}H${width - right}` }));
    root.append(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "soft" }, short(value)));
  }
  for (const value of ticks(xs[0], xs[1], xticks)) root.append(svg("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle", class: "soft" }, short(value)));
  root.append(svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }));
  root.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xlabel));
  root.append(svg("text", { x: left, y: 14, "font-weight": 600 }, ylabel));
  return { root, x, y, left, right: width - right, top, bottom: height - bottom, width };
}

function line(points) {
  let path = "", lastX = NaN, lastY = NaN;
  points.forEach(([x, y], index) => {
    if (index && index < points.length - 1 && Math.hypot(x - lastX, y - lastY) < 0.4) return;
    path += `${path ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    [lastX, lastY] = [x, y];
  });
  return path;
}

// Rates at every threshold, scores falling: equal scores make one step.
function ranked(score, label, rows) {
  const known = rows.filter((row) => label[row] < 2 && Number.isFinite(score[row])).sort((a, b) => score[b] - score[a]);
  let positives = 0;
  for (const row of known) positives += label[row];
  const negatives = known.length - positives;
  const steps = [{ threshold: Infinity, tp: 0, fp: 0 }];
  let tp = 0, fp = 0;
  known.forEach((row, index) => {
    label[row] ? tp++ : fp++;
    if (index + 1 === known.length || score[known[index + 1]] !== score[row]) steps.push({ threshold: score[row], tp, fp });
  });
  return { steps, positives, negatives };
}

const f1 = ({ tp, fp }, positives) => (tp ? (2 * tp) / (tp + fp + positives) : 0);

function bestThreshold({ steps, positives }) {
  return steps.reduce((best, step) => (f1(step, positives) > f1(best, positives) ? step : best)).threshold;
}

function areas({ steps, positives, negatives }) {
  let auroc = 0, ap = 0;
  for (let index = 1; index < steps.length; index++) {
    const [before, now] = [steps[index - 1], steps[index]];
    auroc += ((now.fp - before.fp) * (now.tp + before.tp)) / 2;
    ap += ((now.tp - before.tp) * now.tp) / (now.tp + now.fp);
  }
  return { auroc: auroc / (positives * negatives), ap: ap / positives };
}

const SQUARE = { width: 340, height: 300, xs: [0, 1], ys: [0, 1] };

function caption(figure, ...content) {
  figure.append(html("figcaption", {}, ...content));
}

function drawRates(roc, pr, found, threshold) {
  const { steps, positives, negatives } = found;
  roc.replaceChildren(); pr.replaceChildren();
  if (!positives || !negatives) {
    caption(roc, `ROC and precision-recall need normal and anomalous samples; there are ${negatives} and ${positives}.`);
    return () => {};
  }
  const { auroc, ap } = areas(found);
  const a = frame({ ...SQUARE, xlabel: "false positive rate", ylabel: "true positive rate", title: `ROC curve, AUROC ${auroc.toFixed(4)}` });
  a.root.append(svg("path", { class: "chance", d: line([[a.x(0), a.y(0)], [a.x(1), a.y(1)]]) }));
  a.root.append(svg("path", { class: "curve", d: line(steps.map(({ tp, fp }) => [a.x(fp / negatives), a.y(tp / positives)])) }));
  const b = frame({ ...SQUARE, xlabel: "recall", ylabel: "precision", title: `Precision-recall curve, AP ${ap.toFixed(4)}` });
  b.root.append(svg("path", { class: "chance", d: line([[b.x(0), b.y(positives / (positives + negatives))], [b.x(1), b.y(positives / (positives + negatives))]]) }));
  const stairs = [];
  for (let index = 1; index < steps.length; index++) {
    const { tp, fp } = steps[index], height = b.y(tp / (tp + fp));
    stairs.push([b.x(steps[index - 1].tp / positives), height], [b.x(tp / positives), height]);
  }
  b.root.append(svg("path", { class: "curve", d: line(stairs) }));
  const spots = [svg("circle", { class: "spot", r: 6 }), svg("circle", { class: "spot", r: 6 })];
  a.root.append(spots[0]); b.root.append(spots[1]);
  roc.append(a.root); pr.append(b.root);
  caption(roc, html("b", { id: "auroc" }, `AUROC ${auroc.toFixed(4)}`), " · dot: the threshold; dotted: chance");
  caption(pr, html("b", { id: "ap" }, `AP ${ap.toFixed(4)}`), " · dot: the threshold; dotted: chance");
  const move = (limit) => {
    let step = steps[0];
    for (const each of steps) if (each.threshold >= limit) step = each; else break;
    spots[0].setAttribute("cx", a.x(step.fp / negatives)); spots[0].setAttribute("cy", a.y(step.tp / positives));
    spots[1].setAttribute("visibility", step.tp + step.fp ? "visible" : "hidden");
    spots[1].setAttribute("cx", b.x(step.tp / positives)); spots[1].setAttribute("cy", b.y(step.tp / (step.tp + step.fp || 1)));
  };
  move(threshold);
  return move;
}

function rangeOf(score, rows) {
  let low = Infinity, high = -Infinity;
  for (const row of rows) if (Number.isFinite(score[row])) { low = Math.min(low, score[row]); high = Math.max(high, score[row]); }
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

const withRoom = ([low, high]) => [low - (high - low) * 0.04, high + (high - low) * 0.04];

function hatch() {
  return svg("defs", {}, svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, svg("path", { d: "M0 6L6 0" })));
}

function drawHistogram(figure, score, label, rows, threshold, unit) {
  figure.replaceChildren();
  const xs = withRoom(rangeOf(score, rows)), bins = Math.max(10, Math.min(50, Math.round(2 * Math.sqrt(rows.length))));
  const counts = [0, 1, 2].map(() => new Array(bins).fill(0)), sums = [0, 0, 0];
  for (const row of rows) if (Number.isFinite(score[row])) {
    counts[label[row]][Math.min(bins - 1, Math.floor(((score[row] - xs[0]) / (xs[1] - xs[0])) * bins))]++;
    sums[label[row]]++;
  }
  const used = [0, 1, 2].filter((each) => sums[each]);
  const uneven = Math.max(...used.map((each) => sums[each])) > 3 * Math.min(...used.map((each) => sums[each]));
  const heights = counts.map((each, index) => each.map((count) => (uneven ? (100 * count) / (sums[index] || 1) : count)));
  const top = Math.max(...heights.flat()) || 1;
  const plot = frame({ ...SQUARE, xs, ys: [0, top * 1.05], xlabel: "anomaly score", ylabel: uneven ? `per cent of ${unit} of a label` : unit, title: `Histogram of scores of ${used.map((each) => `${sums[each]} ${NAMES[each]}`).join(" and ")} ${unit}` });
  plot.root.prepend(hatch());
  for (const each of used) {
    let path = "";
    heights[each].forEach((height, bin) => {
      if (!height) return;
      const from = plot.x(xs[0] + (bin * (xs[1] - xs[0])) / bins), to = plot.x(xs[0] + ((bin + 1) * (xs[1] - xs[0])) / bins);
      path += `M${from.toFixed(1)} ${plot.bottom}V${plot.y(height).toFixed(1)}H${to.toFixed(1)}V${plot.bottom}Z`;
    });
    plot.root.append(svg("path", { class: `bar-${NAMES[each]}`, d: path }));
  }
  const limit = svg("path", { class: "limit" });
  plot.root.append(limit);
  figure.append(plot.root);
  const signs = { 0: "plain", 1: "hatched", 2: "grey" };
  caption(figure, used.map((each) => `${signs[each]}: ${sums[each]} ${NAMES[each]}`).join(" · "), " · dashed: the threshold");
  const move = (value) => {
    const there = value >= xs[0] && value <= xs[1];
    limit.setAttribute("d", there ? `M${plot.x(value)} ${plot.top}V${plot.bottom}` : "");
  };
  move(threshold);
  return move;
}

const SIGNS = {
  0: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  1: (x, y, r) => `M${x} ${y - 1.3 * r}l${1.3 * r} ${2.3 * r}h${-2.6 * r}Z`,
  2: (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
};
const MANY = 6000;

function drawTimeline(figure, score, label, rows, threshold, unit) {
  figure.replaceChildren();
  const ys = withRoom(rangeOf(score, rows)), last = Math.max(rows.length - 1, 1);
  const width = Math.max(340, Math.min(1100, figure.clientWidth || 1100)); // letters keep their size on a phone
  const plot = frame({ width, height: 280, xs: [-0.5, last + 0.5], ys, xlabel: `${unit} in the order of the data`, ylabel: "anomaly score", xticks: width / 120, title: `Scores of ${rows.length} ${unit} in the order of the data` });
  const paths = { 0: "", 1: "", 2: "" }, r = rows.length > 600 ? 2 : 4;
  if (rows.length > MANY) {
    const highest = new Map();
    rows.forEach((row, index) => {
      const key = `${label[row]} ${Math.floor(plot.x(index))}`;
      if (Number.isFinite(score[row]) && !(highest.get(key) >= score[row])) highest.set(key, score[row]);
    });
    for (const [key, value] of highest) { const [kind, x] = key.split(" ").map(Number); paths[kind] += SIGNS[kind](x, Number(plot.y(value).toFixed(1)), 1.5); }
  } else rows.forEach((row, index) => { if (Number.isFinite(score[row])) paths[label[row]] += SIGNS[label[row]](Number(plot.x(index).toFixed(1)), Number(plot.y(score[row]).toFixed(1)), r); });
  for (const kind of [2, 0, 1]) if (paths[kind]) plot.root.append(svg("path", { class: NAMES[kind], d: paths[kind] }));
  const limit = svg("path", { class: "limit" });
  plot.root.append(limit);
  figure.append(plot.root);
  caption(figure, "circle: normal · triangle: anomalous · dashed: the threshold", rows.length > MANY ? " · the highest of each label in each column" : "");
  const move = (value) => limit.setAttribute("d", value >= ys[0] && value <= ys[1] ? `M${plot.left} ${plot.y(value)}H${plot.right}` : "");
  move(threshold);
  return move;
}

// The curve of a video: events shaded and edged, the threshold dashed; returns the picture and what moves its cursor.
function drawCurve(curve, threshold, { width, height, small }) {
  const finite = curve.score.filter(Number.isFinite);
  const ys = curve.span || rangeOf(finite, finite.keys());
  const plot = frame({ width, height, xs: [0, curve.frames], ys: withRoom(ys), xlabel: small ? "" : "frame", ylabel: small ? "" : "score", xticks: small ? 3 : width / 100, yticks: small ? 2 : 4,
    title: `Scores of ${curve.frames} frames, highest ${short(Math.max(...finite))}; true events: ${curve.events.map(([start, end]) => `${start} to ${end - 1}`).join(", ") || "none"}` });
  for (const [start, end] of curve.events) {
    plot.root.append(svg("path", { class: "event", d: `M${plot.x(start)} ${plot.top}H${plot.x(end)}V${plot.bottom}H${plot.x(start)}Z` }));
    plot.root.append(svg("path", { class: "event-edge", d: `M${plot.x(start)} ${plot.top}V${plot.bottom}M${plot.x(end)} ${plot.top}V${plot.bottom}` }));
  }
  const each = curve.frames / curve.score.length;
  const points = curve.score.flatMap((value, index) => (Number.isFinite(value) ? [[plot.x(index * each), plot.y(value)], [plot.x((index + 1) * each), plot.y(value)]] : []));
  plot.root.append(svg("path", { class: "curve", d: line(points) }));
  if (Number.isFinite(threshold)) plot.root.append(svg("path", { class: "limit", d: `M${plot.left} ${Math.max(plot.top, Math.min(plot.bottom, plot.y(threshold)))}H${plot.right}` }));
  const cursor = svg("path", { class: "axis", "stroke-width": 2 });
  plot.root.append(cursor);
  return { root: plot.root, move: (at) => cursor.setAttribute("d", `M${plot.x(at)} ${plot.top}V${plot.bottom}`) };
}
