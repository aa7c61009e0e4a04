// The page of `tglo rate`. What a rater does is kept in this browser until the server says that the disk has it, and is
// sent again until then; each event has an id of its own, so that what is sent twice counts once.
"use strict";
const $ = id => document.getElementById(id);
const desk = $("desk"), stage = $("stage");
const RETRY = 1000, BEAT = 30000;  // milliseconds
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), b => b.toString(16).padStart(2, "0")).join("");

let name = "", here = false, taken = false;
let ready = [];    // what comes next, the first is shown; each with the element that shows it
let steps = [];    // what can be undone
let unsent = [];   // events that the server has not acknowledged
let sending = false, resuming = false, again = 0, since = 0, latest = 0, done = "", progress = {rated: 0, skipped: 0, left: 0};

// --- what outlives this page -------------------------------------------------------------------------------------
const session = (() => {
  const key = `tglo-session-${desk.dataset.ratings}`;
  try {
    const known = sessionStorage.getItem(key) || random();
    sessionStorage.setItem(key, known);
    return known;
  } catch { return random(); }
})();
const shelf = () => `tglo-rate/${desk.dataset.ratings}/${name.toLowerCase()}/`;
function keep(event) { try { localStorage.setItem(shelf() + event.id, JSON.stringify(event)); } catch { /* in memory */ } }
function forget(id) { try { localStorage.removeItem(shelf() + id); } catch { /* in memory */ } }
function kept() {
  try {
    const keys = Object.keys(localStorage).filter(key => key.startsWith(shelf()));
    return keys.map(key => JSON.parse(localStorage.getItem(key))).sort((a, b) => a.made - b.made);
  } catch { return []; }
}

// --- talking to the server ---------------------------------------------------------------------------------------
const me = () => ({ratings: desk.dataset.ratings, name, session});

async function ask(path, content) {
  const answer = await fetch(path, {method: "POST", body: JSON.stringify({...me(), ...content}),
    headers: {"Content-Type": "application/json"}, signal: AbortSignal.timeout(20000)});
  const text = await answer.text();
  try { return {...JSON.parse(text), status: answer.status}; }
  catch { return {status: answer.status, problem: text.slice(0, 200) || `the server answers ${answer.status}`}; }
}

async function send() {
  if (sending || !here || taken) return;
  sending = true;
  clearTimeout(again);
  const batch = unsent.slice(0, 100);
  let problem = "";
  try {
    const answer = await ask("/events", {events: batch.map(({made, ...event}) => event), holding: ready.map(one => one.sample)});
    if (answer.status !== 200) problem = answer.problem;
    else {
      const refused = Object.entries(answer.refused);
      const known = new Set([...answer.saved, ...refused.map(([id]) => id)]);
      unsent = unsent.filter(event => !known.has(event.id));
      known.forEach(forget);
      if (refused.length) say(`${refused.length} not taken: ${refused[0][1]}`, true);
      if (answer.taken && !unsent.length) return lost(answer.taken);
      if (resuming && !unsent.length) return begin(await ask("/enter", {take_over: false}));
      // What was done meanwhile is not in the answer.
      const busy = new Set([...ready.map(one => one.sample), ...unsent.map(event => event.sample)]);
      if (!resuming) (answer.rows || []).filter(row => !busy.has(row.sample)).forEach(row => ready.push(prepare(row)));
      if (!unsent.length) progress = answer;
      if (!unsent.length && batch.length && !refused.length) say(`${done}, saved`);
    }
  } catch (error) { problem = "the server does not answer"; }
  finally { sending = false; }
  show();
  if (problem) {
    const waits = unsent.length ? `${unsent.length} not saved yet, kept in this browser and sent again` : "trying again";
    say(`${waits}: ${problem}`, true);
  }
  again = setTimeout(send, problem ? RETRY : unsent.length || (!ready.length && batch.length) ? 0 : BEAT);
}

async function enter(take) {
  name = $("name").value;
  $("refused").textContent = "";
  $("take").hidden = true;
  try {
    const answer = await ask("/enter", {take_over: take});
    if (answer.status !== 200) {
      $("take").hidden = answer.status !== 409;
      const remedy = ". If that is you, take over: what is rated there already stays. If not, choose another name";
      $("refused").textContent = answer.problem + (answer.status === 409 ? remedy : "");
      return;
    }
    name = answer.name;
    unsent = kept();
    resuming = unsent.length > 0;  // what comes next is known when the server has these
    here = true; taken = false;
    $("welcome").hidden = true; desk.hidden = false;
    $("who").textContent = name;
    stage.focus();
    begin(resuming ? {...answer, rows: []} : answer);
    if (resuming) send();
  } catch { $("refused").textContent = "the server does not answer: is `tglo rate` still running?"; }
}

function begin(answer) {
  if (answer.status !== 200) return lost(answer.problem);
  resuming = unsent.length > 0;
  steps = answer.steps; ready = answer.rows.map(prepare); progress = answer;
  clearTimeout(again);
  again = setTimeout(send, BEAT);
  show();
}

function lost(why) {
  taken = true; here = false;
  desk.hidden = true; $("welcome").hidden = false; $("take").hidden = false;
  $("refused").textContent = `${why}. Everything that you rated here is saved; take over to continue here`;
}

// --- what is seen ------------------------------------------------------------------------------------------------
function prepare(row) {
  const one = {...row, loaded: false, broken: ""}, address = `/image/${row.row}?of=${row.sample}`;
  const element = one.element = document.createElement(row.video ? "video" : "img");
  if (row.video) {
    Object.assign(element, {loop: true, muted: true, playsInline: true, preload: "auto", title: "p or a click pauses"});
    element.addEventListener("click", pause);
  } else element.alt = "the image to rate";
  const loaded = () => { one.loaded = true; if (ready[0] === one) show(); };
  element.addEventListener(row.video ? "loadeddata" : "load", () => {
    if (Math.max(element.naturalWidth || 0, element.videoWidth || 0) < 128) element.classList.add("small");
    loaded();
  });
  element.addEventListener("error", async () => {
    if (one.element !== element) return;
    // A film that this browser cannot play, or a moving picture: the server knows which.
    const moving = document.createElement("img");
    moving.alt = "the video to rate, as a moving picture";
    if (row.video && element.tagName === "VIDEO") {
      one.element = moving;
      moving.addEventListener("load", loaded);
      moving.addEventListener("error", () => fail(one, address + "&moving"));
      moving.src = address + "&moving";
    } else fail(one, address);
  });
  element.src = address;
  return one;
}

async function fail(one, address) {
  try {
    const answer = await fetch(address);
    const found = answer.ok ? {problem: "this browser cannot show it"} : await answer.json().catch(() => ({}));
    one.broken = found.problem || `the server answers ${answer.status}`;
  } catch { setTimeout(() => { const i = ready.indexOf(one); if (i >= 0) { ready[i] = prepare(one); show(); } }, RETRY); return; }
  if (ready[0] === one) show();
}

function message(text, action, word = "") {
  if (stage.textContent === text + word) return;  // the focus may be on the button
  const line = document.createElement("p");
  line.textContent = text;
  stage.replaceChildren(line);
  if (!action) return;
  const button = document.createElement("button");
  button.textContent = word;
  button.addEventListener("click", action);
  line.append(document.createElement("br"), button);
}

function show() {
  const one = ready[0];
  if (one && !one.broken) {
    if (stage.firstChild !== one.element) {
      stage.replaceChildren(one.element);
      since = performance.now();
      if (one.element.play) one.element.play().catch(() => {});
    }
  } else if (one) message(`This ${one.video ? "video" : "image"} cannot be shown (${one.broken}). Please skip it.`);
  else if (unsent.length || sending) message("Waiting for the server ...");
  else if (progress.skipped) message(`All done: ${progress.rated} rated, ${progress.skipped} skipped.`, revisit, "Show the skipped ones again");
  else message(`All done: ${progress.rated} rated. Thank you!`);
  const prompt = one ? one.prompt : "";
  if ($("prompt").textContent !== prompt) $("prompt").textContent = prompt;  // it is read out when it changes
  $("prompt").hidden = !one;
  const may = Boolean(one && one.loaded && !one.broken);
  document.querySelectorAll(".star").forEach(star => {
    star.setAttribute("aria-disabled", !may);
    star.classList.toggle("given", Boolean(one && one.given === Number(star.dataset.stars)));
  });
  $("skip").setAttribute("aria-disabled", !one);
  $("undo").setAttribute("aria-disabled", !steps.length);
  const seen = progress.rated + progress.skipped, total = seen + progress.left;
  $("bar").max = Math.max(1, total); $("bar").value = seen;
  $("count").textContent = `${seen} of ${total}` + (progress.skipped ? ` (${progress.skipped} skipped)` : "");
}

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").classList.toggle("bad", bad);
}

// --- what a rater does -------------------------------------------------------------------------------------------
function act(event) {
  latest = Math.max(latest + 0.001, Date.now());  // later ones are greater, whatever the clock does
  event = {id: random(), made: latest, ...event};
  unsent.push(event);
  keep(event);
  show();
  send();
}

function rate(stars) {
  const one = ready[0];
  if (!one || (stars && !(one.loaded && !one.broken))) return;
  ready.shift();
  if (one.element.pause) one.element.pause();
  const id = random(), seconds = Math.round(performance.now() - since) / 1000;
  steps.push({id, stars: stars || -1, row: one.row, sample: one.sample, prompt: one.prompt, video: one.video});
  progress = {...progress, left: progress.left - 1, rated: progress.rated + (stars ? 1 : 0), skipped: progress.skipped + (stars ? 0 : 1)};
  say(done = stars ? `${stars} ${stars === 1 ? "star" : "stars"}` : "Skipped");
  act({id, kind: stars ? "rate" : "skip", sample: one.sample, seconds, ...(stars && {stars})});
}

function pause() {
  const film = stage.querySelector("video");
  if (film && film.paused) film.play().catch(() => {});
  else if (film) film.pause();
}

function undo() {
  const step = steps.pop();
  if (!step) return;
  ready = ready.filter(one => one.sample !== step.sample);
  ready.unshift(prepare({...step, given: step.stars}));
  progress = {...progress, left: progress.left + 1, rated: progress.rated - (step.stars > 0 ? 1 : 0), skipped: progress.skipped - (step.stars > 0 ? 0 : 1)};
  say(done = step.stars > 0 ? `Undone: you had given ${step.stars}` : "Undone: you had skipped it");
  act({kind: "undo", of: step.id});
}

function revisit() {
  steps = steps.filter(step => step.stars > 0);
  say(done = "The skipped ones again");
  stage.focus();
  act({kind: "again"});
}

document.addEventListener("keydown", event => {
  if (!here || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter");
  const scrolls = event.target === $("prompt") && event.key === " ";
  if (onButton || scrolls || event.target.tagName === "INPUT") return;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);  // on French keyboards, too, where digits need shift
  const stars = digit && !event.shiftKey ? Number(digit[1]) : event.key.trim() ? Number(event.key) : 0;
  if (stars >= 1 && stars <= Number(desk.dataset.stars)) rate(stars);
  else if (event.key === " " || event.key === "s") rate(0);
  else if (event.key === "u" || event.key === "Backspace") undo();
  else if (event.key === "p") pause();
  else return;
  event.preventDefault();
});
// After a click with a pointer the keys belong to the image again: space skips, and does not press the button once more.
function press(button, action) { button.addEventListener("click", event => { if (event.detail) stage.focus(); action(); }); }
document.querySelectorAll(".star").forEach(star => press(star, () => rate(Number(star.dataset.stars))));
press($("skip"), () => rate(0));
press($("undo"), undo);
$("enter").addEventListener("submit", event => { event.preventDefault(); enter(false); });
$("take").addEventListener("click", () => enter(true));
addEventListener("online", send);
addEventListener("pagehide", () => { if (here) navigator.sendBeacon("/leave", JSON.stringify(me())); });
addEventListener("pageshow", event => { if (event.persisted && here) send(); });
if (desk.dataset.rater) enter(false);
