// State of the page: the threshold, which rows count, what the gallery shows. Everything is drawn from DATA.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);
const score = Float32Array.from(DATA.score, (value) => (value === null ? NaN : value)); // as the run compared them
const label = Uint8Array.from(DATA.label, (sign) => (sign === "?" ? 2 : Number(sign)));
const GROUPS = { loader: "loader", category: "category", kind: "kind of defect" };
const state = { threshold: 0, filter: {}, verdict: "all", sort: "error", heat: false, edges: true, open: null };
let rows = [], moves = [], stops = [], frameAt = 0;

const isAnomalous = (row) => score[row] >= Math.fround(state.threshold);
const verdictOf = (row) => (Number.isNaN(score[row]) ? "U" : label[row] === 2 ? (isAnomalous(row) ? "A" : "N") : isAnomalous(row) ? (label[row] ? "TP" : "FP") : label[row] ? "FN" : "TN");
const VERDICTS = { TP: "✓ found", FN: "✗ missed", FP: "! false alarm", TN: "✓ left alone", A: "called anomalous", N: "called normal", U: "? no score" };
const LONG = { TP: "anomalous, called anomalous (TP)", FN: "anomalous, called normal (FN)", FP: "normal, called anomalous (FP)", TN: "normal, called normal (TN)", A: "no label, called anomalous", N: "no label, called normal", U: "its score is no number, so nothing was decided" };
// How far on the wrong side of the threshold; below zero on the right one.
const error = (row) => (label[row] === 2 || Number.isNaN(score[row]) ? -Infinity : label[row] ? state.threshold - score[row] : score[row] - state.threshold);
const ratio = (part, whole) => (whole ? (part / whole).toFixed(4) : "none");

function count(some) {
  const found = { TP: 0, FN: 0, FP: 0, TN: 0, A: 0, N: 0, U: 0 };
  for (const row of some) found[verdictOf(row)]++;
  return found;
}

function rates({ TP, FN, FP }) {
  return { precision: ratio(TP, TP + FP), recall: ratio(TP, TP + FN), f1: ratio(2 * TP, 2 * TP + FP + FN) };
}

// Threshold -------------------------------------------------------------------------------------------------------------

function setStops() {
  const known = [...new Set(rows.map((row) => score[row]).filter(Number.isFinite))].sort((a, b) => a - b);
  const step = Math.max(1, Math.ceil(known.length / 1000));
  stops = known.filter((_, index) => index % step === 0 || index === known.length - 1);
  const top = stops.length ? stops[stops.length - 1] : 0;
  stops.push(top + Math.max(Math.abs(top), 1e-6) * 1e-3); // above all of them
  byId("slider").max = stops.length - 1;
}

function setThreshold(value, { fromSlider = false } = {}) {
  state.threshold = value;
  const slider = byId("slider"), limit = Math.fround(value);
  if (!fromSlider) {
    const found = stops.findIndex((stop) => stop >= limit);
    slider.value = found < 0 ? stops.length - 1 : found;
  }
  const numbers = count(rows), { precision, recall, f1: harmonic } = rates(numbers);
  slider.setAttribute("aria-valuetext", `threshold ${short(value)}: ${numbers.TP} found, ${numbers.FN} missed, ${numbers.FP} false alarms, ${numbers.TN} left alone`);
  byId("threshold").value = Number(value.toPrecision(6));
  for (const [name, number] of Object.entries({ tp: numbers.TP, fn: numbers.FN, fp: numbers.FP, tn: numbers.TN, precision, recall, f1: harmonic })) byId(name).textContent = number;
  const unlabelled = numbers.A + numbers.N ? ` · ${numbers.A} of ${numbers.A + numbers.N} without label called anomalous` : "";
  const undecided = numbers.U ? ` · ${numbers.U} without a score` : "";
  byId("counts").textContent = `TP ${numbers.TP} · FN ${numbers.FN} · FP ${numbers.FP} · TN ${numbers.TN} · precision ${precision} · recall ${recall} · F1 ${harmonic}${unlabelled}${undecided}`;
  for (const move of moves) move(value);
  drawGroups();
  updateCards();
  remember();
}

// Filters and plots -----------------------------------------------------------------------------------------------------

function choose(name, text, options, chosen, change) {
  const select = html("select", { id: `choose-${name}` }, ...options.map(([value, words]) => html("option", { value, selected: value === chosen }, words)));
  select.addEventListener("change", () => change(select.value));
  return html("label", {}, text, select);
}

function applyFilter() {
  rows = [];
  for (let row = 0; row < score.length; row++) {
    const wanted = Object.entries(state.filter).every(([name, value]) => value === "" || DATA[name].of[row] === Number(value) || (name === "kind" && label[row] === 0));
    if (wanted) rows.push(row);
  }
  setStops();
  moves = [drawHistogram(byId("plot-histogram"), score, label, rows, state.threshold, DATA.unit)];
  moves.push(drawRates(byId("plot-roc"), byId("plot-pr"), ranked(score, label, rows), state.threshold));
  moves.push(drawTimelineHere());
}

function makeFilters() {
  for (const [name, words] of Object.entries(GROUPS)) {
    if (!DATA[name]) continue;
    state.filter[name] = "";
    const options = [["", "all"], ...DATA[name].names.map((each, index) => [String(index), each || "none"])];
    byId("filters").append(choose(name, words, options, "", (value) => { state.filter[name] = value; applyFilter(); setThreshold(state.threshold); drawCards(); }));
  }
}

function drawGroups() {
  const place = byId("group-tables");
  if (!place) return;
  place.replaceChildren();
  for (const [name, words] of Object.entries(GROUPS)) {
    if (!DATA[name]) continue;
    const some = DATA[name].names.map(() => []);
    for (const row of rows) some[DATA[name].of[row]].push(row);
    const body = some.map((group, index) => [DATA[name].names[index] || "none", group]).filter(([, group]) => group.length).map(([each, group]) => {
      const numbers = count(group), { precision, recall, f1: harmonic } = rates(numbers);
      const cells = [group.length, numbers.TP, numbers.FN, numbers.FP, numbers.TN, precision, recall, harmonic];
      return html("tr", {}, html("th", { scope: "row" }, each), ...cells.map((cell) => html("td", { class: "number" }, String(cell))));
    });
    const head = [words, DATA.unit, "TP", "FN", "FP", "TN", "precision", "recall", "F1"].map((each) => html("th", { scope: "col" }, each));
    place.append(html("div", { class: "wide", tabIndex: 0, role: "region", "aria-label": `decisions by ${words}` }, html("table", {}, html("caption", {}, `Decisions at this threshold by ${words}`), html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body))));
  }
}

// Gallery ---------------------------------------------------------------------------------------------------------------

const value = (row) => (Number.isNaN(score[row]) ? -Infinity : score[row]);
const SORTS = {
  error: ["worst errors first", (a, b) => error(b.row) - error(a.row)],
  high: ["highest score first", (a, b) => value(b.row) - value(a.row)],
  low: ["lowest score first", (a, b) => value(a.row) - value(b.row)],
  kind: ["kind of defect", (a, b) => kindOf(a.row).localeCompare(kindOf(b.row)) || value(b.row) - value(a.row)],
  order: ["order of the data", (a, b) => a.row - b.row],
};
const kindOf = (row) => (DATA.kind ? DATA.kind.names[DATA.kind.of[row]] : NAMES[label[row]]);

function edges(item) {
  const drawn = svg("svg", { class: "edges", viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const name of ["truth", "marked"]) if (item[name]) drawn.append(svg("path", { class: "seam", d: item[name] }), svg("path", { class: name, d: item[name] }));
  return drawn;
}

function pictureOf(item, alt) {
  const box = html("span", { class: item.w * item.h < 65 * 65 ? "pic tiny" : "pic" }, html("img", { src: item.image, alt, width: item.w, height: item.h, decoding: "async" }));
  box.querySelector("img").style.height = "auto";
  box.style.setProperty("--ratio", item.w / item.h);
  if (item.heat) box.append(html("img", { class: "heat", src: item.heat, alt: "", "aria-hidden": "true", decoding: "async" }));
  box.append(edges(item));
  return box;
}

function makeCard(item) {
  const words = html("span", { class: "verdict" }), facts = html("span", { class: "facts-line" });
  const shown = item.curve ? html("span", { class: "pic plain" }) : pictureOf(item, item.name || `${NAMES[label[item.row]]} ${item.row}`);
  const button = html("button", { type: "button", class: "card" }, shown, words, facts, html("span", { class: "name" }, item.name));
  button.addEventListener("click", () => openItem(item));
  item.card = html("li", {}, button);
  item.update = () => {
    const verdict = verdictOf(item.row);
    button.className = `card ${verdict}`;
    words.textContent = VERDICTS[verdict];
    facts.textContent = `score ${short(score[item.row])} · ${kindOf(item.row)}`;
    if (item.curve) shown.replaceChildren(drawCurve(item.curve, state.threshold, { width: 340, height: 150, small: true }).root);
  };
}

function listed() {
  const there = new Set(rows);
  const wanted = (verdict) => state.verdict === "all" || state.verdict === verdict || (state.verdict === "errors" && (verdict === "FP" || verdict === "FN"));
  return DATA.items.filter((item) => there.has(item.row) && wanted(verdictOf(item.row))).sort(SORTS[state.sort][1]);
}

function drawCards() {
  if (!byId("cards")) return;
  const some = listed();
  byId("cards").replaceChildren(...some.map((item) => item.card));
  byId("listed").textContent = `${some.length} shown`;
}

let waiting = 0;
function updateCards() {
  if (!byId("cards")) return;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    for (const item of DATA.items) item.update();
    drawCards();
  });
}

function toggle(name, on = !state[name]) {
  state[name] = on;
  for (const place of [byId("cards"), byId("viewer")]) if (place) place.classList.toggle(`show-${name}`, on);
  for (const button of document.querySelectorAll(`[data-toggle="${name}"]`)) button.setAttribute("aria-pressed", on);
  remember();
}

function toggleButton(name, words) {
  const button = html("button", { type: "button", "data-toggle": name, "aria-pressed": String(state[name]) }, words);
  button.addEventListener("click", () => toggle(name));
  return button;
}

function makeGallery() {
  const place = byId("gallery-controls");
  if (!place) return;
  const sorts = Object.entries(SORTS).filter(([name]) => name !== "kind" || DATA.kind).map(([name, [words]]) => [name, words]);
  const verdicts = [["all", "all"], ["errors", "errors"], ["FN", "missed"], ["FP", "false alarms"], ["TP", "found"], ["TN", "left alone"]];
  place.append(choose("sort", "sort", sorts, state.sort, (value) => { state.sort = value; drawCards(); remember(); }));
  place.append(choose("verdict", "show", verdicts, state.verdict, (value) => { state.verdict = value; drawCards(); }));
  if (DATA.items.some((item) => item.heat)) place.append(toggleButton("heat", "heat maps (H)"));
  if (DATA.items.some((item) => item.truth || item.marked)) place.append(toggleButton("edges", "outlines (O): dashed true, solid predicted"));
  place.append(html("span", { id: "listed", role: "status", class: "small" }));
  if (DATA.items[0].curve) byId("cards").classList.add("videos");
  DATA.items.forEach(makeCard);
}

// Viewer ----------------------------------------------------------------------------------------------------------------

function makeViewer() {
  const close = html("button", { type: "button" }, "close (Esc)"), before = html("button", { type: "button" }, "← previous"), after = html("button", { type: "button" }, "next →");
  const viewer = html("dialog", { id: "viewer", "aria-labelledby": "viewer-title" }, html("h2", { id: "viewer-title" }), html("div", { class: "controls" }, before, after, close), html("div", { class: "stage", id: "stage" }), html("dl", { class: "facts", id: "viewer-facts" }));
  close.addEventListener("click", () => viewer.close());
  before.addEventListener("click", () => go(-1));
  after.addEventListener("click", () => go(1));
  viewer.addEventListener("close", () => { const item = state.open; state.open = null; remember(); item?.card.firstChild.focus(); });
  document.body.append(viewer);
}

function go(step) {
  const some = listed(), at = some.indexOf(state.open);
  if (some.length) openItem(some[(at + step + some.length) % some.length]);
}

function openItem(item) {
  state.open = item;
  const viewer = byId("viewer"), verdict = verdictOf(item.row);
  byId("viewer-title").textContent = item.name || `${NAMES[label[item.row]]} sample ${item.row}`;
  byId("stage").replaceChildren(...(item.curve ? videoStage(item) : pictureStage(item)));
  const facts = { decision: LONG[verdict], score: short(score[item.row]), threshold: short(state.threshold), kind: DATA.kind ? kindOf(item.row) : null };
  for (const name of ["category", "loader"]) if (DATA[name]) facts[name] = DATA[name].names[DATA[name].of[item.row]];
  if (item.curve?.auroc != null) facts["AUROC inside"] = item.curve.auroc.toFixed(4);
  byId("viewer-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
  if (!viewer.open) viewer.showModal();
  remember();
}

function pictureStage(item) {
  const controls = html("div", { class: "controls" });
  if (item.heat) {
    const strength = html("input", { type: "range", min: "0", max: "1", step: "0.05", value: "0.55", "aria-label": "strength of the heat map" });
    strength.addEventListener("input", () => { toggle("heat", true); byId("viewer").style.setProperty("--heat", strength.value); });
    controls.append(toggleButton("heat", "heat map (H)"), strength);
  }
  if (item.truth || item.marked) controls.append(toggleButton("edges", "outlines (O): dashed true, solid predicted"));
  return [pictureOf(item, item.name), controls];
}

function videoStage(item) {
  const { root, move } = drawCurve(item.curve, state.threshold, { width: Math.max(320, Math.min(640, innerWidth - 70)), height: 240 });
  const words = html("p", { role: "status", class: "small" });
  const slider = html("input", { type: "range", min: "0", max: String(item.curve.frames - 1), "aria-label": "frame" });
  slider.style.width = "100%";
  const shown = (item.frames || []).map(({ at, image }) => {
    const figure = html("figure", {}, html("img", { src: image, alt: `frame ${at}` }), html("figcaption", {}, `frame ${at}`));
    figure.addEventListener("click", () => seek(at));
    return { at, figure };
  });
  function seek(at) {
    slider.value = at;
    move(at);
    const value = item.curve.score[Math.min(item.curve.score.length - 1, Math.floor((at * item.curve.score.length) / item.curve.frames))];
    const event = item.curve.events.some(([start, end]) => at >= start && at < end);
    words.textContent = `frame ${at}: score ${short(value)}, ${value >= state.threshold ? "at or above" : "below"} the threshold${item.curve.label === null ? "" : event ? ", inside a true event" : ", no true event"}`;
    const nearest = shown.reduce((best, each) => (!best || Math.abs(each.at - at) < Math.abs(best.at - at) ? each : best), null);
    for (const each of shown) each.figure.classList.toggle("now", each === nearest);
  }
  slider.addEventListener("input", () => seek(Number(slider.value)));
  const known = item.curve.score.map((value) => (Number.isFinite(value) ? value : -Infinity));
  seek(Math.floor((known.indexOf(Math.max(...known)) * item.curve.frames) / known.length));
  return [root, slider, words, html("div", { class: "frames", tabIndex: 0, role: "group", "aria-label": "frames of the video" }, ...shown.map(({ figure }) => figure))];
}

// Keys and address ------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=range]), select, textarea")) return;
  const key = event.key.toLowerCase();
  if (key === "h") toggle("heat");
  else if (key === "o") toggle("edges");
  else if (state.open && !event.target.matches("input") && (key === "arrowleft" || key === "arrowright")) go(key === "arrowleft" ? -1 : 1);
});

function remember() {
  const parts = { t: Number(state.threshold.toPrecision(8)), sort: state.sort, ...(state.heat ? { heat: 1 } : {}), ...(state.open ? { item: state.open.row } : {}) };
  try { history.replaceState(null, "", `#${new URLSearchParams(parts)}`); } catch { /* some viewers forbid it */ }
}

function drawTimelineHere() {
  return drawTimeline(byId("plot-timeline"), score, label, rows, state.threshold, DATA.unit);
}

function start() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (SORTS[asked.get("sort")]) state.sort = asked.get("sort");
  makeFilters(); makeGallery(); makeViewer(); applyFilter();
  const chosen = DATA.threshold ?? bestThreshold(ranked(score, label, rows)), finite = Number.isFinite(chosen) ? chosen : stops[chosen < 0 ? 0 : stops.length - 1];
  const reset = byId("reset");
  reset.textContent = DATA.threshold === null ? `best F1 (${short(finite)})` : `calibrated (${short(finite)})`;
  reset.addEventListener("click", () => setThreshold(finite));
  byId("slider").addEventListener("input", () => setThreshold(stops[Number(byId("slider").value)], { fromSlider: true }));
  byId("threshold").addEventListener("change", () => { const value = Number(byId("threshold").value); if (byId("threshold").value !== "" && Number.isFinite(value)) setThreshold(value); });
  byId("panel").hidden = false;
  const item = DATA.items.find(({ row }) => String(row) === asked.get("item"));
  const wanted = Number(asked.get("t"));
  setThreshold(asked.get("t") && Number.isFinite(wanted) ? wanted : finite);
  toggle("edges", true);
  toggle("heat", asked.has("heat"));
  if (item) openItem(item);
  addEventListener("resize", () => { moves[2] = drawTimelineHere(); });
}

start();
