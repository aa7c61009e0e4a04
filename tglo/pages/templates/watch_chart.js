"use strict";
// Charts of watch.js: lines of several runs over their steps, drawn on a canvas, with values under the pointer.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const keep = (element, ...children) => element.replaceChildren(...children);

function smooth(values) {
  const share = Number($("smoothing").value);
  if (!share) return values;
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (Number.isNaN(value)) return NaN;
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

function number(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return "\u2013";
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(3)).toExponential();
  return value.toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "\u2212");
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough) || power * 10;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(Math.abs(tick) < step * 1e-6 ? 0 : tick);
  return found;
}

function decades(low, high) {
  const first = Math.ceil(low - 1e-9), last = Math.floor(high + 1e-9);
  if (last - first < 1) return ticks(low, high, 4).map((tick) => 10 ** tick).map(Math.log10);
  const every = Math.ceil((last - first + 1) / 5);
  return Array.from({ length: last - first + 1 }, (_, n) => first + n).filter((n) => (n - first) % every === 0);
}

class Chart {
  constructor(about) {
    Object.assign(this, about);
    this.logarithmic = false;
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.cursor = make("div", { className: "cursor", hidden: true });
    this.tip = make("div", { className: "tip", hidden: true });
    const means = this.means ? ` \u2013\u2013 ${this.means[0]}, - - ${this.means[1]}` : "";
    const caption = make("figcaption", {}, make("span", {}, make("strong", { textContent: this.title }), make("span", { className: "means", textContent: means })));
    if (this.log) {
      this.button = make("button", { type: "button", textContent: "log" });
      this.button.setAttribute("aria-label", `logarithmic scale of ${this.title}`);
      this.button.setAttribute("aria-pressed", "false");
      this.button.addEventListener("click", () => {
        this.logarithmic = !this.logarithmic;
        this.button.setAttribute("aria-pressed", String(this.logarithmic));
        this.draw();
      });
      caption.append(this.button);
    }
    this.figure = make("figure", { className: "chart" }, caption, this.canvas, this.cursor, this.tip);
    this.figure.dataset.curve = this.curves[0];
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event.offsetX));
    for (const leaving of ["pointerleave", "pointercancel", "blur"]) this.canvas.addEventListener(leaving, () => pointAt(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  scaled(value) {
    if (!this.logarithmic) return value;
    return value > 0 ? Math.log10(value) : NaN;
  }

  prepare() {
    this.shown = visible().flatMap((run) => this.curves.map((name, dashed) => ({ run, dashed, name, bins: run.lines[name] }))
      .filter((line) => line.bins && line.bins[0].some(Number.isFinite)));
    if (this.varies) this.shown = this.shown.filter((line) => line.bins.some((part) => part.some((value) => value !== line.bins[0][0] && value === value)));
    this.figure.hidden = !this.shown.length;
    for (const line of this.shown) line.smooth = smooth(line.bins[0]);
    this.extent();
  }

  extent() {
    let [low, high] = this.logarithmic || !this.range ? [Infinity, -Infinity] : this.range;
    this.left = Infinity, this.right = -Infinity;
    for (const { run, bins } of this.shown) {
      this.left = Math.min(this.left, run.steps[0]);
      this.right = Math.max(this.right, run.steps[run.steps.length - 1]);
      for (const part of bins) for (const value of part) {
        const at = this.scaled(value);
        if (at < low) low = at;
        if (at > high) high = at;
      }
    }
    if (!Number.isFinite(low)) [low, high] = [0, 1];
    if (high - low < 1e-12 * Math.max(1, Math.abs(high))) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
    const room = (high - low) * 0.04;
    [this.low, this.high] = [this.range && !this.logarithmic && low === this.range[0] ? low : low - room, high + room];
    if (this.right <= this.left) [this.left, this.right] = [this.left - 1, this.left + 1];
  }

  draw() {
    this.prepare();
    const { canvas } = this, width = canvas.clientWidth, height = canvas.clientHeight, dots = window.devicePixelRatio || 1;
    if (this.figure.hidden || !width) return;
    canvas.width = Math.round(width * dots), canvas.height = Math.round(height * dots);
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(dots, dots);
    pen.font = "11px system-ui, sans-serif";
    const vertical = this.logarithmic ? decades(this.low, this.high) : ticks(this.low, this.high, 4);
    const labels = vertical.map((tick) => number(this.logarithmic ? 10 ** tick : tick));
    const margin = Math.max(...labels.map((label) => pen.measureText(label).width), 20) + 8;
    this.box = { left: margin, top: 6, right: width - 10, bottom: height - 20 };
    const { left, top, right, bottom } = this.box;
    this.x = (step) => left + ((step - this.left) / (this.right - this.left)) * (right - left);
    this.y = (value) => bottom - ((this.scaled(value) - this.low) / (this.high - this.low)) * (bottom - top);
    this.grid(pen, style, vertical, labels);
    pen.save();
    pen.beginPath();
    pen.rect(left, top - 2, right - left + 2, bottom - top + 4);
    pen.clip();
    for (const line of this.shown) this.line(pen, line);
    pen.restore();
    const words = this.shown.map((line) => `${line.run.name} ${line.name.replaceAll("_", " ")} ${number(last(line.bins[0]))}`);
    canvas.setAttribute("aria-label", `${this.title} over ${number(this.left)} to ${number(this.right)} steps. Newest: ${words.join("; ")}`);
  }

  grid(pen, style, vertical, labels) {
    const { left, top, right, bottom } = this.box;
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.lineWidth = 1;
    pen.textBaseline = "middle", pen.textAlign = "right";
    vertical.forEach((tick, n) => {
      const y = bottom - ((tick - this.low) / (this.high - this.low)) * (bottom - top);
      pen.fillText(labels[n], left - 6, y);
      stroke(pen, [left, right], [y, y]);
    });
    pen.textBaseline = "top";
    for (const tick of ticks(this.left, this.right, Math.max(2, Math.floor((right - left) / 90)))) {
      const x = this.x(tick), wide = pen.measureText(number(tick)).width / 2;
      pen.textAlign = x + wide > right + 8 ? "right" : "center";
      pen.fillText(number(tick), Math.min(x, right + 8), bottom + 6);
    }
    pen.strokeStyle = style.getPropertyValue("--soft");
    pen.setLineDash([2, 3]);
    for (const value of this.logarithmic ? [] : this.lines || []) stroke(pen, [left, right], [this.y(value), this.y(value)]);
    pen.setLineDash([]);
  }

  line(pen, { run, bins, smooth: values, dashed }) {
    const xs = run.steps.map(this.x), heights = (list) => list.map(this.y);
    pen.strokeStyle = pen.fillStyle = colour(run.id);
    if (bins.length > 1) {
      pen.globalAlpha = 0.25 / Math.sqrt(visible().length);
      const [lower, upper] = [heights(bins[1]), heights(bins[2])];
      fill(pen, xs, lower, upper);
      pen.globalAlpha = 0.8, pen.lineWidth = 1;
      for (const n of spikes(lower, upper)) stroke(pen, [xs[n], xs[n]], [lower[n], upper[n]]);
    } else if (values !== bins[0]) {
      pen.globalAlpha = 0.25, pen.lineWidth = 1;
      stroke(pen, xs, heights(bins[0]));
    }
    pen.globalAlpha = 1, pen.lineWidth = 1.6, pen.lineJoin = "round";
    pen.setLineDash(dashed ? [5, 4] : []);
    stroke(pen, xs, heights(values));
    pen.setLineDash([]);
  }

  point(x) {
    if (!this.x) return;
    const { left, right } = this.box, share = Math.min(1, Math.max(0, (x - left) / (right - left)));
    pointAt(this.left + share * (this.right - this.left), this);
  }

  key(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || !this.shown.length) return;
    event.preventDefault();
    const { steps } = this.shown[0].run, at = pointed === null ? steps.length - 1 : nearest(steps, pointed) + way;
    pointAt(steps[Math.min(steps.length - 1, Math.max(0, at))], this);
  }

  mark(step, told) {
    const inside = step !== null && this.x && step >= this.left && step <= this.right && !this.figure.hidden;
    this.cursor.hidden = !inside;
    this.tip.hidden = !inside || !told;
    if (!inside) return;
    const x = this.x(step), top = this.canvas.offsetTop;
    Object.assign(this.cursor.style, { left: `${x}px`, top: `${top + this.box.top}px`, height: `${this.box.bottom - this.box.top}px` });
    if (told) this.tell(step, x, top);
  }

  tell(step, x, top) {
    const few = visible().length <= 4;
    const rows = visible().map((run) => {
      const n = nearest(run.steps, step), lines = this.shown.filter((line) => line.run === run);
      const told = lines.map(({ bins, smooth: values }) => {
        const between = few && bins.length > 1 ? ` (${number(bins[1][n])} to ${number(bins[2][n])})` : "";
        return number(values[n]) + between;
      });
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = colour(run.id);
      return make("div", { hidden: !lines.length }, swatch, make("span", { className: "name", textContent: run.name }), make("span", { textContent: told.join(" / ") }));
    });
    const run = this.shown[0].run;
    keep(this.tip, make("div", { textContent: `step ${run.steps[nearest(run.steps, step)].toLocaleString("en")}` }), ...rows);
    const wide = this.tip.offsetWidth, room = this.figure.clientWidth;
    const to = x + 12 + wide <= room ? x + 12 : Math.max(0, x - 12 - wide);
    Object.assign(this.tip.style, { left: `${Math.min(to, Math.max(0, room - wide))}px`, top: `${top + 8}px` });
  }
}

let pointed = null, telling = null; // the step under the pointer, and the chart that tells its values
function pointAt(step, chart = null) {
  [pointed, telling] = [step, chart];
  for (const other of charts) other.mark(step, other === chart);
}

const last = (values) => values.findLast(Number.isFinite);

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    steps[middle] < step ? (low = middle + 1) : (high = middle);
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function stroke(pen, xs, ys) {
  let drawing = false;
  pen.beginPath();
  for (let n = 0; n < xs.length; n++) {
    const there = Number.isFinite(ys[n]);
    if (there && drawing) pen.lineTo(xs[n], ys[n]);
    else if (there) pen.moveTo(xs[n], ys[n]);
    if (there && !drawing && !Number.isFinite(ys[n + 1])) pen.fillRect(xs[n] - 2, ys[n] - 2, 4, 4); // alone
    drawing = there;
  }
  pen.stroke();
}

function fill(pen, xs, lower, upper) {
  const there = (n) => n < xs.length && Number.isFinite(lower[n]) && Number.isFinite(upper[n]);
  pen.beginPath();
  for (let first = 0; first < xs.length; first++) {
    if (!there(first)) continue;
    let end = first;
    pen.moveTo(xs[first], lower[first]);
    while (there(end)) pen.lineTo(xs[end], lower[end]), end++;
    for (let n = end - 1; n >= first; n--) pen.lineTo(xs[n], upper[n]);
    pen.closePath();
    first = end;
  }
  pen.fill();
}

// Bins whose values spread several times as far as usual: one line among many, which a faint band would hide.
function spikes(lower, upper) {
  const sizes = lower.map((height, n) => height - upper[n]), usual = sizes.slice().sort()[sizes.length >> 1];
  return [...sizes.keys()].filter((n) => sizes[n] > Math.max(4 * usual, 6));
}
