// The page of tglo watch: the runs, their curves (watch_chart.js) and validation images, kept up to date.
const $ = (id) => document.getElementById(id);
const served = $("data").dataset.served === "1", every = 1000 * Number($("data").dataset.every);
const CHARTS = [
  { title: "loss", curves: ["loss"], log: true },
  { title: "r", curves: ["r_positive", "r_negative"], means: ["positives", "negatives"], lines: [0] },
  { title: "implicit accuracy", curves: ["implicit_accuracy"], range: [0, 1], lines: [0.5] },
  { title: "saturated share, |r| > 4", curves: ["saturated"], range: [0, 0.1], lines: [0.1] },
  { title: "error", curves: ["policy_error", "reference_error"], means: ["policy", "reference"], log: true },
  { title: "gradient norm", curves: ["gradient_norm"], log: true },
  { title: "learning rate", curves: ["learning_rate"], log: true, range: [0, 0] },
  { title: "samples per second", curves: ["samples_per_second"], range: [0, 0] },
  { title: "temperature T", curves: ["temperature"], log: true, varies: true },
];
const COLOURS = 10;
const runs = []; // by id: what the server said last, and its curves whole
const hidden = new Set();
const colour = (id) => getComputedStyle(document.documentElement).getPropertyValue(`--run-${id % COLOURS}`);
const visible = () => runs.filter((run) => !hidden.has(run.id));

// Data: bins of curves, in pieces

function floats(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = characters.charCodeAt(n);
  return new Float32Array(bytes.buffer);
}

function joined(before, first, news) {
  const whole = new Float32Array(first + news.length);
  if (before) whole.set(before.subarray(0, first));
  else whole.fill(NaN, 0, first);
  whole.set(news, first);
  return whole;
}

function take(entry) {
  const before = runs[entry.id] || { samples: [], pictures: {}, lines: {} }, news = entry.curves;
  const run = (runs[entry.id] = { ...before, ...entry });
  const steps = floats(news.steps), parts = news.width > 1 ? 3 : 1;
  run.steps = joined(before.steps, news.first, steps);
  run.lines = {};
  for (const [name, text] of Object.entries(news.curves)) {
    const values = floats(text), part = (n) => values.subarray(n * steps.length, (n + 1) * steps.length);
    run.lines[name] = [0, 1, 2].slice(0, parts).map((n) => joined(before.lines[name]?.[n], news.first, part(n)));
  }
}

// Runs

function showRuns() {
  keep($("runs"), ...runs.map((run) => {
    const box = make("input", { type: "checkbox", checked: !hidden.has(run.id) });
    box.addEventListener("change", () => {
      box.checked ? hidden.delete(run.id) : hidden.add(run.id);
      draw();
    });
    box.dataset.run = run.id;
    const card = make("article", { className: "run" },
      make("label", {}, box, make("span", { className: "name", textContent: run.name }),
        make("span", { className: `word ${run.state}`, textContent: run.state })),
      make("p", { textContent: run.sentence }));
    card.style.borderColor = card.style.color = `var(--run-${run.id % COLOURS})`;
    for (const part of card.querySelectorAll("p")) part.style.color = "var(--ink)";
    if (run.total && run.step !== null) {
      const bar = make("progress", { max: run.total, value: Math.min(run.step, run.total) });
      bar.setAttribute("aria-label", `step ${run.step} of ${run.total}`);
      card.append(bar);
    }
    if (run.read < 1) card.append(make("p", { className: "note", textContent: `reading: ${Math.floor(100 * run.read)}%` }));
    const said = run.findings.map(([level, text]) => make("li", { className: level, textContent: text }));
    const notes = run.notes.map((text) => make("li", { className: "note", textContent: text }));
    const list = make("ul", {}, ...said, ...notes);
    list.style.color = "var(--ink)";
    card.append(list, make("p", { className: "note", textContent: run.facts.join(" \u00b7 ") }));
    return card;
  }));
}

const charts = CHARTS.map((about) => new Chart(about));
keep($("charts"), ...charts.map((chart) => chart.figure));

function draw() {
  for (const chart of charts) chart.draw();
  pointAt(pointed, telling);
  $("waiting").hidden = runs.some((run) => run.steps.length);
  $("bands").hidden = !visible().some((run) => run.curves.width > 1);
  showSamples();
}

// Validation images

let stepsOfSamples = [];

function showSlider() {
  const steps = [...new Set(runs.flatMap((run) => run.samples.map(([step]) => step)))].sort((a, b) => a - b);
  const slider = $("step"), atEnd = Number(slider.value) >= stepsOfSamples.length - 1;
  const chosen = stepsOfSamples[Number(slider.value)];
  stepsOfSamples = steps;
  $("validation").hidden = !steps.length;
  slider.max = Math.max(0, steps.length - 1);
  slider.value = atEnd ? slider.max : Math.max(0, steps.indexOf(chosen));
}

function source(run, sample, name) {
  return served ? `sample/${run.id}/${name}?v=${sample[2]}` : run.pictures[name] || "";
}

const figures = new Map(); // kept, so that a moved slider changes pictures without a flicker

function figureOf(run, sample, prompt, caption) {
  const [step, number, , image, video] = sample, plays = Boolean(video && served);
  const key = `${run.id} ${number} ${plays}`;
  if (!figures.has(key)) figures.set(key, make("figure", {}, make(plays ? "video" : "img"), make("figcaption")));
  const figure = figures.get(key), [shown, words] = figure.children;
  const address = source(run, sample, plays ? video : image), alt = `${run.name} at step ${step}: ${prompt}`;
  if (shown.getAttribute("src") !== address) {
    if (plays) Object.assign(shown, { controls: true, loop: true, muted: true, preload: "none", poster: source(run, sample, image) });
    shown.src = address;
  }
  plays ? shown.setAttribute("aria-label", alt) : (shown.alt = alt);
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = `var(--run-${run.id % COLOURS})`;
  keep(words, swatch, make("span", { textContent: caption }));
  return figure;
}

function samplesAt(step) {
  const found = new Map(); // prompt -> runs with their sample
  for (const run of visible()) {
    const newest = Math.max(...run.samples.map(([at]) => at).filter((at) => at <= step));
    for (const sample of run.samples.filter(([at]) => at === newest)) {
      const prompt = run.prompts[sample[1]] ?? `prompt ${sample[1] + 1}`;
      found.set(prompt, [...(found.get(prompt) || []), [run, sample]]);
    }
  }
  return found;
}

function showSamples() {
  const slider = $("step"), step = stepsOfSamples[Number(slider.value)];
  if (step === undefined) return;
  const name = (number) => number.toLocaleString("en");
  $("shown").textContent = `${name(step)} (${Number(slider.value) + 1} of ${stepsOfSamples.length})`;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  const found = samplesAt(step);
  const alone = new Set([...found.values()].flat().map(([run]) => run)).size < 2; // then the prompts make one grid
  const rows = [...found].map(([prompt, all]) => ({
    prompt,
    wide: all.some(([, sample]) => sample[4]),
    figures: all.map(([run, sample]) => figureOf(run, sample, prompt, alone ? prompt : `${run.name}, step ${name(sample[0])}`)),
    ids: all.map(([run, sample]) => [run.id, sample[1]]),
  }));
  const kept = $("samples"), layout = JSON.stringify([alone, rows]);
  if (kept.dataset.layout === layout) return; // figureOf has changed the pictures in place
  kept.dataset.layout = layout;
  const grid = (wide, shown) => make("div", { className: wide ? "samples wide" : "samples" }, ...shown);
  if (alone) keep(kept, grid(rows.some((row) => row.wide), rows.flatMap((row) => row.figures)));
  else keep(kept, ...rows.map((row) => make("div", { className: "prompt" }, make("h3", { textContent: row.prompt }), grid(row.wide, row.figures))));
}

// What is new

function show(data) {
  data.runs.forEach(take);
  document.title = document.querySelector("h1").textContent = data.title;
  $("awaited").hidden = !data.awaited.length;
  const waiting = `There is no run at ${data.awaited.join(", ")} yet${served ? ": this page waits for it" : ""}.`;
  if ($("awaited").textContent !== waiting) $("awaited").textContent = waiting; // a screen reader says what changes
  const focused = document.activeElement?.dataset.run;
  showRuns();
  if (focused !== undefined) document.querySelector(`[data-run="${focused}"]`)?.focus();
  showSlider();
  draw();
}

async function refresh() {
  let wait = every;
  try {
    const have = runs.map((run) => `have=${[run.id, run.curves.generation, run.curves.width, run.curves.complete, run.mark].join(".")}`);
    const answer = await fetch(`data?${have.join("&")}`);
    if (!answer.ok) throw new Error(await answer.text());
    const data = await answer.json();
    show(data);
    $("status").textContent = `follows the runs; ${new Date().toLocaleTimeString()}`;
    $("status").classList.remove("lost");
    wait = data.more ? 50 : runs.length && runs.every((run) => run.state === "finished") && !data.awaited.length ? 5 * every : every;
  } catch {
    $("status").textContent = "no answer from tglo watch: was it ended? This page tries again.";
    $("status").classList.add("lost");
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", refresh, { once: true }) : refresh()), wait);
}

$("smoothing").addEventListener("input", () => {
  $("smoothed").textContent = $("smoothing").value;
  for (const chart of charts) chart.draw();
});
$("step").addEventListener("input", showSamples);
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
const data = JSON.parse($("data").textContent);
for (const { id } of data.runs.slice(COLOURS)) hidden.add(id);
show(data);
document.documentElement.dataset.drawn = Math.round(performance.now()); // milliseconds after the page was asked for
if (served) setTimeout(refresh, data.more ? 50 : every);
