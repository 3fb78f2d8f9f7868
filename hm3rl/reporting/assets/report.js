"use strict";
// The page's only state is what is chosen; everything drawn follows from it.
const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const tasks = runs[0].objectives;
const state = { run: 0, split: "search", utility: "balance", weights: tasks.map(() => 1 / tasks.length) };

// Okabe and Ito's colours, told apart with colour-blind eyes; letters, dashes, stripes and symbols tell them apart in grey.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const PHASES = { parameter: ["#0072b2", "square"], offline: ["#e69f00", "triangle-up"], online: ["#009e73", "circle"] };
const DARK = window.matchMedia("(prefers-color-scheme: dark)").matches, NARROW = window.innerWidth < 700;
const [INK, BACK, GRID, AXIS, FAINT] = DARK ? ["#e8ebef", "#14171b", "#2b3138", "#77818c", "rgba(190,200,210,.35)"] : ["#111", "#fff", "#e4e8ed", "#9aa3ad", "rgba(60,70,80,.28)"];
const CONFIG = { displaylogo: false, displayModeBar: NARROW ? false : "hover", responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const FONT = { family: "system-ui, sans-serif", size: 13, color: DARK ? INK : "#1b1f24" };

const byId = (id) => document.getElementById(id);
const run = () => runs[state.run];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const fixed = (value, digits = NARROW ? 2 : 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
// An objective to be minimised is shown as its cost, of which the utility is 1 - cost / worst.
const heading = (task) => (task in run().minimised ? `${task} ↓` : task);
function shown(task, value, error) {
  const cost = run().minimised[task];
  if (cost && value !== null) value = cost.worst * (1 - value);
  return error === undefined ? fixed(value) : scoreText(value, cost ? cost.worst * error : error);
}
const scoreText = (value, error) => `${fixed(value)} ± ${fixed(error)}`;
const label = (one) => `${one.name} · ${one.searcher} · seed ${one.seed}`;

function layout(extra) {
  const axis = { gridcolor: GRID, zerolinecolor: GRID, linecolor: AXIS, automargin: true };
  return {
    font: FONT, paper_bgcolor: BACK, plot_bgcolor: BACK, hovermode: "closest", hoverlabel: { align: "left" },
    margin: { l: 55, r: 15, t: 32, b: 50 }, ...extra,
    xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
  };
}

// ---- choosing -------------------------------------------------------------------------------------------------------

// Weights always sum to 1, so that a slider stands where its number says: moving one moves the others in proportion.
function setWeight(k, value) {
  const rest = state.weights.reduce((sum, w, j) => (j === k ? sum : sum + w), 0), left = 1 - value;
  state.weights = state.weights.map((w, j) => (j === k ? value : rest > 0 ? (w * left) / rest : left / (tasks.length - 1)));
  if (tasks.length === 1) state.weights = [1];
}

// `hm3rl.objectives.utility.Utility`, of f / z*.
function utilityOf(model) {
  const { kind, length_cost, utopia, rho } = run().utility, best = run().z_star.search;
  const values = model[decisive()].map((f, k) => f / best[k]), cost = length_cost * model.length;
  if (kind === "weighted_sum" && state.utility === "run") return values.reduce((sum, f, k) => sum + state.weights[k] * f, 0) - cost;
  const gaps = values.map((f, k) => state.weights[k] * ((Array.isArray(utopia) ? utopia[k] : utopia) - f));
  return -Math.max(...gaps) - rho * gaps.reduce((a, b) => a + b, 0) - cost;
}

// What the run's front goes by: posterior means where its agent can say them, else scores.
const decisive = () => ("posterior" in run().front[0] ? "posterior" : "search");

// Of equals one that no other dominates, then the shorter path.
function choose() {
  const worth = run().front.map(utilityOf), most = Math.max(...worth);
  const equals = run().front.filter((_, n) => worth[n] >= most - 1e-12);
  const better = (a, b) => a[decisive()].every((f, k) => f >= b[decisive()][k]) && a[decisive()].some((f, k) => f > b[decisive()][k]);
  const left = equals.filter((model) => !equals.some((other) => better(other, model)));
  return left.reduce((chosen, model) => (model.length < chosen.length ? model : chosen));
}

function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function command(text) {
  const button = make("button", { type: "button", textContent: "copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  });
  return make("div", { className: "command" }, make("pre", { textContent: text }), button);
}

function drawSliders() {
  byId("sliders").replaceChildren(...tasks.map((task, k) => {
    const output = make("output");
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: state.weights[k], id: `weight-${k}`, name: task });
    slider.addEventListener("input", () => { setWeight(k, Number(slider.value)); drawChoice(); });
    const name = make("label", { htmlFor: slider.id }, make("span", { textContent: task }), output);
    return make("div", { className: "slider" }, name, slider);
  }));
}

// Metrics that decided nothing: the model's test scores, and the best expert's by that metric.
function furtherRows(model, means) {
  const further = run().further;
  if (!further) return [];
  const number = (value) => (value === undefined ? "–" : value.toFixed(3));
  return Object.entries(further.metrics).flatMap(([task, metrics]) => metrics.map((metric) => {
    const of = (name) => ((further.scores[name] || {})[task] || {})[metric];
    const experts = Object.keys(run().sources).map(of).filter((value) => value !== undefined);
    const cells = [`${task}: ${metric}`, ...(means ? ["–"] : []), "–", number(of(model.name)), experts.length ? number(Math.max(...experts)) : "–"];
    return make("tr", { className: "watched" }, ...cells.map((text) => make("td", { textContent: text })));
  }));
}

// Tasks that the search did not see: the model's test scores, and the base's in place of the best expert's.
function watchedRows(model, means) {
  const watched = run().watched;
  if (!watched) return [];
  return Object.keys(watched.tasks).map((task) => {
    const down = watched.minimised[task], said = (pair) => (down ? scoreText(down.worst * (1 - pair[0]), down.worst * pair[1]) : scoreText(...pair));
    const own = (watched.scores[model.name] || {})[task], base = (watched.scores.base || {})[task];
    const cells = [`${task}${down ? " ↓" : ""} (watched)`, ...(means ? ["–"] : []), "–", own ? said(own) : "–", base ? `base ${said(base)}` : "–"];
    return make("tr", { className: "watched" }, ...cells.map((text) => make("td", { textContent: text })));
  });
}

function drawChosen(model) {
  document.querySelectorAll("#sliders output").forEach((output, k) => { output.textContent = state.weights[k].toFixed(2); });
  document.querySelectorAll("#sliders input").forEach((slider, k) => { slider.value = state.weights[k]; });
  const means = decisive() === "posterior";
  const rows = tasks.map((task, k) => make("tr", {}, ...[
    heading(task), ...(means ? [shown(task, model.posterior[k], model.posterior_se[k])] : []), shown(task, model.search[k], model.search_se[k]), shown(task, model.test[k], model.test_se[k]),
    shown(task, run().z_star.search[k]),
  ].map((text) => make("td", { textContent: text }))));
  rows.push(...furtherRows(model, means), ...watchedRows(model, means));
  const head = make("thead", {}, make("tr", {}, ...["task", ...(means ? ["posterior"] : []), "search", "test", "best expert"].map((t) => make("th", { textContent: t }))));
  const strip = make("div", { className: "strip" }, ...cells(model.path));
  const folder = shellWord(run().folder);
  const prefer = tasks.map((task, k) => (state.weights[k] >= 0.005 ? shellWord(`${task}=${Number(state.weights[k].toFixed(2))}`) : "")).filter(Boolean).join(" ");
  const own = state.utility === "run" ? " --utility run" : "";
  byId("chosen").replaceChildren(
    make("h3", { textContent: `Model ${model.name}`, id: "chosen-name" }),
    ...(model.expert ? [make("p", { className: "note", textContent: `This is the expert ${model.expert} itself: by this utility no model of the front is worth more.` })] : []),
    make("div", { className: "scroll" }, make("table", {}, head, make("tbody", {}, ...rows))), strip,
    make("span", { className: "note", textContent: "This model as a plain checkpoint:" }),
    command(`hm3rl export ${folder} ${model.name} --to my-model`),
    make("span", { className: "note", textContent: "Ask the agent for this preference, too:" }),
    command(`hm3rl pick ${folder} --prefer ${prefer}${own} --export my-model`),
  );
}

// ---- the front ------------------------------------------------------------------------------------------------------

function hover(model, split) {
  const scores = tasks.map((task, k) => `${task} ${scoreText(model[split][k], model[split + "_se"][k])}`);
  return `<b>${model.name}</b> (${split})<br>${scores.join("<br>")}<br>${wrap(model.path)}`;
}

function wrap(path) {
  const lines = [""];
  for (const word of path.split(" + ")) {
    if (lines.at(-1).length + word.length > 48) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " + " : "") + word;
  }
  return lines.join("<br>  + ");
}

function pairTraces(i, j, chosen) {
  const split = state.split, front = run().front, traces = [];
  if (split === "search") {
    const scored = run().evaluations.filter((e) => e.phase !== "sources" && !e.failed);
    for (const phase of new Set(scored.map((e) => e.phase))) {
      const part = scored.filter((e) => e.phase === phase);
      const [color, symbol] = PHASES[phase] || ["#999999", "diamond-tall"];
      traces.push({
        type: "scatter", mode: "markers", name: phase, x: part.map((e) => e.scores[i]), y: part.map((e) => e.scores[j]),
        marker: { color, symbol, size: 5, opacity: 0.4 }, hoverinfo: "text",
        text: part.map((e) => `${phase}, evaluation ${e.evaluations}<br>${tasks.map((t, k) => `${t} ${fixed(e.scores[k])}`).join("<br>")}<br>${wrap(e.path)}`),
      });
    }
  }
  traces.push({
    type: "scatter", mode: "markers", name: "front", x: front.map((m) => m[split][i]), y: front.map((m) => m[split][j]),
    marker: { symbol: "circle-open", size: 9, color: INK, line: { width: 1.3 } }, hoverinfo: "text", text: front.map((m) => hover(m, split)),
  });
  const sources = Object.entries(run().sources);
  traces.push({
    type: "scatter", mode: "markers", name: "experts", x: sources.map(([, s]) => s[split][i]), y: sources.map(([, s]) => s[split][j]),
    text: sources.map(([name, s]) => `${name}<br>${tasks.map((t, k) => `${t} ${fixed(s[split][k])}`).join("<br>")}`),
    marker: { symbol: "star", size: 13, color: INK }, hoverinfo: "text",
  });
  const blends = Object.entries(run().references).filter(([, s]) => split in s);
  traces.push({
    type: "scatter", mode: "markers", name: "uniform blends", x: blends.map(([, s]) => s[split][i]), y: blends.map(([, s]) => s[split][j]),
    marker: { symbol: "x", size: 9, color: INK }, hoverinfo: "text",
    text: blends.map(([name, s]) => `${name}<br>${tasks.map((t, k) => `${t} ${scoreText(s[split][k], s[split + "_se"][k])}`).join("<br>")}`),
  });
  traces.push({
    type: "scatter", mode: "markers", name: "chosen", x: [chosen[split][i]], y: [chosen[split][j]], hoverinfo: "text", text: [hover(chosen, split)],
    marker: { symbol: "diamond", size: 13, color: "#d55e00", line: { color: INK, width: 1.5 } },
  });
  return traces;
}

// Names of the experts beside their stars, on the page's colour so that points do not run through them, and moved up where two would meet.
function namesOf(i, j) {
  const placed = [];
  return Object.entries(run().sources).sort((a, b) => a[1][state.split][j] - b[1][state.split][j]).map(([text, s]) => {
    const x = s[state.split][i], y = s[state.split][j], left = x > 0.6;
    let shift = 0;
    while (placed.some((other) => Math.abs(other.x - x) < 0.5 && Math.abs(other.y + other.shift / 250 - y - shift / 250) < 0.065)) shift += 4;
    placed.push({ x, y, shift });
    return { x, y, text, showarrow: false, xanchor: left ? "right" : "left", xshift: left ? -9 : 9, yshift: shift, bgcolor: DARK ? "rgba(20,23,27,.75)" : "rgba(255,255,255,.75)", borderpad: 1, font: { size: 12 } };
  });
}

function drawPairs(chosen) {
  const pairs = tasks.flatMap((_, i) => tasks.slice(i + 1).map((_, d) => [i, i + 1 + d]));
  const place = byId("pairs");
  if (!place.children.length) place.append(...pairs.map(([i, j]) => make("div", { className: "plot", id: `pair-${i}-${j}` })));
  for (const [i, j] of pairs) {
    Plotly.react(`pair-${i}-${j}`, pairTraces(i, j, chosen), layout({
      showlegend: false, annotations: namesOf(i, j), xaxis: { title: { text: tasks[i] }, range: [-0.03, 1.06] }, yaxis: { title: { text: tasks[j] }, range: [-0.03, 1.06] },
    }), CONFIG);
  }
}

function drawParallel(chosen) {
  const split = state.split;
  const line = (model) => ({
    type: "scatter", mode: "lines+markers", showlegend: model === chosen, x: tasks, y: model[split], name: model.name, hoverinfo: "text", text: tasks.map(() => hover(model, split)),
    line: model === chosen ? { color: "#d55e00", width: 4 } : { color: FAINT, width: 1 },
    marker: model === chosen ? { symbol: "diamond", size: 11, color: "#d55e00", line: { color: INK, width: 1.5 } } : { size: 4, color: FAINT },
  });
  const models = run().front.filter((m) => m !== chosen).concat([chosen]);
  const beside = Object.entries({ ...run().sources, ...run().references }).filter(([, s]) => split in s).map(([name, s], n) => ({
    type: "scatter", mode: "lines", x: tasks, y: s[split], name, hoverinfo: "text", text: tasks.map((t, k) => `${name}<br>${t} ${fixed(s[split][k])}`),
    line: { color: name in run().sources ? "#0072b2" : "#009e73", dash: DASHES[n % DASHES.length], width: 1.6 }, showlegend: true,
  }));
  Plotly.react("parallel", [...models.slice(0, -1).map(line), ...beside, line(chosen)], layout({
    showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 55, r: 15, t: 80, b: 50 }, xaxis: { type: "category" }, yaxis: { title: { text: split === "posterior" ? "posterior mean, search split" : `score, ${split} split` }, range: [-0.03, 1.06] },
  }), CONFIG);
}

// ---- answers --------------------------------------------------------------------------------------------------------

const SHOWN_ANSWERS = 4;

function drawAnswers(chosen) {
  const kept = run().answers, place = byId("answers");
  place.hidden = !kept;
  if (!kept) return;
  const task = byId("answers-select").value, models = [...(chosen.name in kept.answers ? [chosen.name] : []), ...Object.keys(run().sources)];
  const mark = (score) => (score >= 1 ? "✓" : score <= 0 ? "✗" : "~");
  const articles = kept.items[task].slice(0, SHOWN_ANSWERS).map((item, n) => {
    const rows = [["prompt", item.prompt, ""], ["reference", item.reference, ""]];
    for (const model of models) {
      const [text, score] = kept.answers[model][task][n];
      rows.push([`${model} ${mark(score)} ${score}`, text.trim() ? text : "(nothing)", model === chosen.name ? "own" : ""]);
    }
    return make("article", {}, make("dl", {}, ...rows.flatMap(([name, text, own]) => [make("dt", { textContent: name, className: own }), make("dd", { textContent: text })])));
  });
  if (models[0] !== chosen.name) articles.unshift(make("p", { className: "note", textContent: `The run keeps no answers of ${chosen.name}.` }));
  byId("answer-list").replaceChildren(...articles);
}

// ---- how well experts go together -----------------------------------------------------------------------------------

function drawTogether() {
  const facts = run().mergeability;
  byId("together").hidden = !facts;
  if (!facts) return;
  const what = byId("together-select").value, { experts, places } = facts, percent = what === "conflicts";
  const pairs = experts.flatMap((_, a) => experts.slice(a + 1).map((_, d) => [a, a + 1 + d]));
  const name = ([a, b]) => `${experts[a]} · ${experts[b]}`;
  const rows = pairs.map(([a, b]) => facts[what].map((place) => place[a][b]));
  byId("heat").style.height = `${150 + 30 * pairs.length}px`;
  Plotly.react("heat", [{
    type: "heatmap", z: rows, x: places, y: pairs.map(name), xgap: 1, ygap: 1, zmin: percent ? 0 : -1, zmax: percent ? 0.6 : 1, colorscale: percent ? [[0, "#f7fbff"], [1, "#08306b"]] : "RdBu",
    text: rows.map((row) => row.map((v) => (percent ? Math.round(100 * v) : v.toFixed(2)))), texttemplate: places.length <= 14 && !NARROW ? "%{text}" : "", textfont: { size: 10 },
    colorbar: { tickformat: percent ? ".0%" : "+.1f", thickness: 12 }, hovertemplate: `%{y}, ${"layer"} %{x}: %{z:${percent ? ".0%" : "+.2f"}}<extra></extra>`,
  }], layout({ height: 150 + 30 * pairs.length, xaxis: { type: "category", title: { text: "layer" } }, yaxis: { autorange: "reversed", tickfont: { size: NARROW ? 9 : 12 } } }), CONFIG);
  const sizes = experts.map((e, n) => `${e} ${(100 * facts.whole_sizes[n]).toFixed(1)} %`).join(", ");
  const overall = pairs.map((pair) => `${name(pair)} cosine ${facts.whole_cosines[pair[0]][pair[1]].toFixed(2)}, conflicts ${Math.round(100 * facts.whole_conflicts[pair[0]][pair[1]])} %`).join("; ");
  byId("together-note").textContent = `Sizes of the task vectors, beside the base's weights: ${sizes}. Over the whole model: ${overall}.`;
}

// ---- paths ----------------------------------------------------------------------------------------------------------

// "math | math[0:4] + merged@1a2b3c4d[4:6] + code[7]" -> stem "math" and [["math", 0], …]; an aligned path may carry more after a second bar.
function parsePath(text) {
  const [stem, body] = text.split(" | ");
  const refs = body.split(" + ").flatMap((part) => {
    const [, member, from, to] = part.match(/^(.+)\[(\d+)(?::(\d+))?\]$/);
    const first = Number(from), end = to === undefined ? first + 1 : Number(to);
    return Array.from({ length: end - first }, (_, n) => [member, first + n]);
  });
  return { stem, refs };
}

// "{code: 0.4, math: 0.7}" -> {code: 0.4, math: 0.7}
const isBlend = (member) => member.startsWith("{");
const coefficients = (member) => Object.fromEntries(member.slice(1, -1).split(", ").map((term) => term.split(": ")).map(([name, value]) => [name, Number(value)]));

// Experts' colours side by side, as wide as their coefficients; what is left of 1 is the base's, pale.
function mixture(member) {
  const parts = Object.entries(coefficients(member)).map(([name, value]) => [faces.get(name).colour, Math.max(value, 0)]);
  const sum = parts.reduce((total, [, value]) => total + value, 0), whole = Math.max(sum, 1);
  const shown = [...parts.map(([colour, value]) => [`color-mix(in srgb, ${colour} 45%, white)`, value]), ["#f2f2f2", whole - sum]];
  let at = 0;
  const stops = shown.map(([colour, value]) => { const from = at; at += 100 * value / whole; return `${colour} ${from}% ${at}%`; });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

let faces = new Map();  // member -> letter, colour, whether it is a merge

function nameFaces() {
  faces = new Map();
  const members = new Set(Object.keys(run().sources));
  for (const model of run().front) {
    const { stem, refs } = parsePath(model.path);
    for (const member of [stem, ...refs.map(([name]) => name)]) {
      // A blend has no face of its own: its cells show what it is made of.
      (isBlend(member) ? Object.keys(coefficients(member)) : [member]).forEach((name) => members.add(name));
    }
  }
  let sources = 0, merges = 0;
  for (const member of members) {
    const merged = member in run().recipes;
    const index = merged ? merges++ : sources++;
    const letter = merged ? "abcdefghijklmnopqrstuvwxyz"[index % 26] + (index >= 26 ? Math.floor(index / 26) : "") : "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index % 26];
    faces.set(member, { letter, merged, colour: COLOURS[(merged ? index + 3 : index) % COLOURS.length] });
  }
}

function cell(member, layer, stem) {
  if (isBlend(member)) {
    const element = make("span", { className: stem ? "cell stem" : "cell", textContent: stem ? "|" : `${layer}`, title: stem ? `embedding: ${member}` : `layer ${layer}: ${member}` });
    element.style.background = mixture(member);
    return element;
  }
  const { letter, merged, colour } = faces.get(member);
  const tint = `color-mix(in srgb, ${colour} 45%, white)`;
  const pale = `color-mix(in srgb, ${colour} 15%, white)`;
  const element = make("span", {
    className: stem ? "cell stem" : "cell", textContent: stem ? `${letter}|` : `${letter}${layer}`,
    title: stem ? `embedding of ${member}` : `layer ${layer} of ${member}`,
  });
  element.style.background = merged ? `repeating-linear-gradient(135deg, ${pale} 0 4px, ${tint} 4px 6px)` : tint;
  return element;
}

function cells(path) {
  const { stem, refs } = parsePath(path);
  return [cell(stem, 0, true), ...refs.map(([member, layer]) => cell(member, layer, false))];
}

function drawPaths() {
  const entries = [...faces].map(([member, face]) => make("span", {},
    (() => { const c = cell(member, "", false); c.textContent = face.letter; return c; })(), ` ${member} `,
    make("span", { className: "recipe", textContent: run().recipes[member] || "" })));
  byId("legend").replaceChildren(...entries);
  const depth = Math.max(...run().front.map((m) => m.length));
  const numbers = ["model", "stem", ...Array.from({ length: depth }, (_, n) => n), ...tasks];
  const head = make("thead", {}, make("tr", {}, ...numbers.map((text) => make("th", { textContent: text }))));
  const rows = run().front.map((model) => {
    const layers = cells(model.path).map((c) => make("td", {}, c));
    const rest = Array.from({ length: depth + 1 - layers.length }, () => make("td"));
    const scores = model[decisive()].map((f) => make("td", { className: "score", textContent: fixed(f, 2) }));
    return make("tr", { id: `strip-${model.name}` }, make("td", { textContent: model.name }), ...layers, ...rest, ...scores);
  });
  byId("strips").replaceChildren(head, make("tbody", {}, ...rows));
}

function markStrip(chosen) {
  document.querySelectorAll("#strips tr.chosen").forEach((row) => row.classList.remove("chosen"));
  byId(`strip-${chosen.name}`).classList.add("chosen");
}

// ---- figures of all runs --------------------------------------------------------------------------------------------

function drawRuns() {
  const columns = ["run", "evaluations", "failed", "HV search", "HV test", "experts alone", "front", "seconds"];
  const rows = runs.map((one) => [
    label(one), one.used, one.failed, fixed(one.hypervolume.search), fixed(one.hypervolume.test), fixed(one.hypervolume.sources_search),
    one.front.length, one.seconds.search.toFixed(0),
  ]);
  const head = make("thead", {}, make("tr", {}, ...columns.map((t) => make("th", { textContent: t }))));
  byId("run-table").replaceChildren(head, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((t) => make("td", { textContent: t }))))));
  const best = tasks.map((t, k) => `${t} ${fixed(runs[0].z_star.search[k])}`).join(", ");
  byId("run-note").textContent = "HV: hypervolume of f / z* with reference 0; z* is the best expert on each task of the same split " +
    `(search split of ${label(runs[0])}: ${best}). The front is chosen on the search split and scored again on the test split.` +
    (runs.some((one) => "posterior" in one.hypervolume) ? " HV is of the front by scores, also where the front shown goes by posterior means." : "") +
    (runs[0].utilities.length ? ` Minimised objectives are shown as utilities: ${runs[0].utilities.join(", ")}.` : "");
  byId("title").textContent = runs.length === 1 ? `${runs[0].name}: ${runs[0].searcher}, seed ${runs[0].seed}` : `${runs.length} runs compared`;
  byId("subtitle").textContent = runs.length === 1
    ? `${runs[0].used} evaluations, hypervolume ${fixed(runs[0].hypervolume.search)} on the search split and ${fixed(runs[0].hypervolume.test)} on the test split`
    : `objectives: ${tasks.join(", ")}`;
}

function curveOf(one) {
  const scored = one.evaluations.filter((e) => e.phase !== "sources");
  return { x: [0, ...scored.map((e) => e.evaluations)], y: [one.hypervolume.sources_search, ...scored.map((e) => e.hypervolume)] };
}

function drawProposers() {
  const known = runs.filter((one) => Object.keys(one.chosen_by).length);
  const names = [...new Set(known.flatMap((one) => Object.keys(one.chosen_by)))];
  byId("proposers").hidden = known.length === 0;
  const head = make("thead", {}, make("tr", {}, ...["run", ...names].map((t) => make("th", { textContent: t }))));
  const rows = known.map((one) => make("tr", {}, make("td", { textContent: label(one) }), ...names.map((name) => {
    const count = one.chosen_by[name] || 0, all = Object.values(one.chosen_by).reduce((a, b) => a + b, 0);
    return make("td", { textContent: count ? `${count} (${Math.round(100 * count / all)} %)` : "–" });
  })));
  byId("proposer-table").replaceChildren(head, make("tbody", {}, ...rows));
}

function drawCurves() {
  const groups = new Map();
  for (const one of runs) {
    const name = `${one.name} · ${one.searcher}`;
    groups.set(name, [...(groups.get(name) || []), one]);
  }
  const traces = [...groups].flatMap(([name, members], g) => members.map((one, n) => ({
    type: "scatter", mode: "lines", ...curveOf(one), name, legendgroup: name, showlegend: n === 0, text: label(one),
    hovertemplate: `${label(one)}<br>%{x} evaluations: %{y:.3f}<extra></extra>`,
    line: { shape: "hv", color: COLOURS[g % COLOURS.length], dash: DASHES[g % DASHES.length], width: members.length > 1 ? 1.5 : 2.5 },
  })));
  Plotly.newPlot("curve", traces, layout({
    showlegend: groups.size > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 55, r: 15, t: 80, b: 50 }, xaxis: { title: { text: "evaluations used" }, rangemode: "tozero" },
    yaxis: { title: { text: "hypervolume, search split" } },
  }), CONFIG);
  byId("curve-note").textContent = [...groups].filter(([, members]) => members.length > 1).map(([name, members]) => {
    const values = members.map((one) => one.hypervolume.test), mean = values.reduce((a, b) => a + b, 0) / values.length;
    return `${name}: test hypervolume ${fixed(mean)} on average, ${fixed(Math.min(...values))} to ${fixed(Math.max(...values))} over ${values.length} seeds.`;
  }).join(" ");
}

function drawTime() {
  const parts = [["models", "model", ""], ["programs", "programs", "/"], ["agent", "agent", "x"], ["merging and the rest", "other", "."]];
  const traces = parts.map(([name, key, shape], n) => ({
    type: "bar", orientation: "h", name, y: runs.map(label), x: runs.map((one) => one.seconds[key]), hovertemplate: `${name}: %{x:.1f} s<extra>%{y}</extra>`,
    marker: { color: COLOURS[n], pattern: { shape, fgcolor: "#222", size: 6 }, line: { color: "#333", width: 0.5 } },
  }));
  const height = 180 + 34 * runs.length;
  byId("bars").style.height = `${height}px`;
  Plotly.newPlot("bars", traces, layout({
    barmode: "stack", legend: { orientation: "h", y: 1.02, yanchor: "bottom", traceorder: "normal" }, margin: { l: 55, r: 15, t: 90, b: 50 }, height,
    xaxis: { title: { text: "seconds of the search" } }, yaxis: { autorange: "reversed", showticklabels: !NARROW || runs.length > 1, tickfont: { size: NARROW ? 9 : 13 } },
  }), CONFIG);
}

function drawFailures() {
  const lists = runs.filter((one) => one.failures.length).map((one) => make("div", {}, make("h3", { textContent: label(one) }),
    ...one.failures.map((f) => make("details", {}, make("summary", { textContent: `${f.key}: ${f.path}` }), make("pre", { textContent: f.error })))));
  byId("failure-list").replaceChildren(...(lists.length ? lists : [make("p", { className: "note", textContent: "No candidate failed." })]));
}

function drawOrigin() {
  byId("made").replaceChildren(...runs.map((one) => make("details", {}, make("summary", { textContent: label(one) }),
    make("pre", { textContent: `${one.command}\n\n${Object.entries(one.versions).map(([k, v]) => `${k} ${v}`).join("\n")}\n\nfolder: ${one.folder}` }))));
}

// ---- together -------------------------------------------------------------------------------------------------------

function drawChoice() {
  const chosen = choose();
  drawChosen(chosen);
  drawPairs(chosen);
  drawParallel(chosen);
  drawAnswers(chosen);
  markStrip(chosen);
}

function drawRun() {
  byId("posterior-option").hidden = decisive() !== "posterior";
  if (decisive() !== "posterior" && state.split === "posterior") state.split = byId("split-select").value = "search";
  byId("verdict").textContent = run().verdict;
  // Where the run went by Tchebycheff itself there is nothing to choose.
  byId("utility-control").hidden = run().utility.kind !== "weighted_sum";
  byId("own-option").textContent = "weighted sum, as the run was searched";
  nameFaces();
  drawTogether();
  drawPaths();
  drawChoice();
}

function start() {
  const select = byId("run-select");
  select.append(...runs.map((one, n) => make("option", { value: n, textContent: label(one) })));
  byId("run-control").hidden = runs.length === 1;
  if (runs.length === 1) byId("run-control").style.display = "none";
  select.addEventListener("change", () => { state.run = Number(select.value); drawRun(); });
  // Objectives without items, as the length of the path, have no answers.
  const asked = tasks.filter((task) => runs.some((one) => one.answers && task in one.answers.items));
  byId("answers-select").append(...asked.map((task) => make("option", { value: task, textContent: task })));
  byId("answers-select").addEventListener("change", () => drawAnswers(choose()));
  byId("together-select").addEventListener("change", drawTogether);
  byId("utility-select").addEventListener("change", (event) => { state.utility = event.target.value; drawChoice(); });
  byId("split-select").addEventListener("change", (event) => { state.split = event.target.value; drawChoice(); });
  drawRuns();
  drawSliders();
  drawProposers();
  drawCurves();
  drawTime();
  drawFailures();
  drawOrigin();
  drawRun();
}

start();
