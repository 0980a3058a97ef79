"use strict";
// Drawing: bands with lines over time, and the calibration curve. Everything is SVG text.

const escape = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const percent = (value, digits = 1) => value == null ? "–" : (100 * value).toFixed(digits).replace(/^-(0\.?0*$)?/, (minus, none) => none ?? "−") + "%";
const signed = (value, digits) => value == null ? "–" : (value > 1e-9 ? "+" : "") + percent(value, digits);
const clock = (ms, seconds) => new Date(ms).toLocaleTimeString("en-GB", seconds ? {} : {hour: "2-digit", minute: "2-digit"});
const day = ms => new Date(ms).toLocaleDateString("en-GB", {day: "numeric", month: "short"});
const colour = place => `var(--c${place % 6})`;
const dash = place => ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2"][place % 6];
const nothing = text => `<p class="note">${text}</p>`;

function mark(place, x, y, r) {
  const attributes = `fill="${colour(place)}" stroke="var(--card)"`;
  if (place % 3 === 0) return `<circle cx="${x}" cy="${y}" r="${r}" ${attributes}/>`;
  if (place % 3 === 1) return `<rect x="${x - r * .9}" y="${y - r * .9}" width="${r * 1.8}" height="${r * 1.8}" ${attributes}/>`;
  return `<path d="M${x} ${y - r * 1.2}l${r * 1.2} ${r * 2.1}h${-2.4 * r}z" ${attributes}/>`;
}
const key = place => `<svg class="key" viewBox="0 0 26 12"><path d="M0 6h26" stroke="${colour(place)}" stroke-width="2.4" stroke-dasharray="${dash(place)}"/>${mark(place, 13, 6, 4)}</svg>`;

function steps(low, high) {  // round steps that divide [low, high] into 3 to 6 parts
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(each => each * power).find(each => each >= rough * .999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({length: Math.floor(high / step + 1e-9) - first + 1}, (_, index) => (first + index) * step);
}

// The limits that hold all values and a share of the bands: early intervals can be so wide that nothing else is seen.
function limits(points, share) {
  const values = points.map(([, interval]) => interval[0]);
  const quantile = (all, part) => all.sort((a, b) => a - b)[Math.min(all.length - 1, Math.floor(part * all.length))];
  const top = Math.max(...values, quantile(points.map(([, interval]) => interval[2] ?? interval[0]), share));
  const bottom = Math.min(...values, quantile(points.map(([, interval]) => interval[1] ?? interval[0]), 1 - share));
  const room = .08 * (top - bottom || .01);
  return [bottom - room, top + room];
}

// lines: [{place, points: [[time, [value, low, high]]]}]
function drawOverTime(lines, {label, format, share, zero}) {
  const W = 520, H = 270, L = 50, R = 10, T = 8, B = 26, id = label.replace(/\W/g, "");
  lines = lines.map(({place, points}) => ({place, points: points.filter(([, interval]) => interval[0] != null)}));
  const all = lines.flatMap(line => line.points);
  if (!all.length) return nothing("There is not enough yet.");
  const times = all.map(([at]) => at), first = Math.min(...times), last = Math.max(...times, first + 1);
  const [bottom, top] = limits(zero ? [...all, [0, [0]]] : all, share);
  const x = at => L + (W - L - R) * (at - first) / (last - first);
  const y = value => H - B - (H - T - B) * (value - bottom) / (top - bottom);
  let out = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${label}"><clipPath id="${id}"><path d="M${L} ${T}H${W - R + 6}V${H - B}H${L}z"/></clipPath>`;
  for (const step of steps(bottom, top)) out += `<path class="rule" d="M${L} ${y(step)}H${W - R}"/><text x="${L - 8}" y="${y(step) + 4}" text-anchor="end">${format(step, top - bottom)}</text>`;
  if (zero) out += `<path class="zero" d="M${L} ${y(0)}H${W - R}"/>`;
  for (let tick = 0; tick <= 3; tick++) {
    const at = first + (last - first) * tick / 3, text = last - first > 36e5 * 36 ? day(at) : clock(at, last - first < 12e5);
    out += `<text x="${x(at)}" y="${H - 6}" text-anchor="${tick === 0 ? "start" : tick === 3 ? "end" : "middle"}">${text}</text>`;
  }
  out += `<g clip-path="url(#${id})">`;
  for (const {place, points} of lines) {
    const known = points.filter(([, [, from]]) => from != null);
    const band = known.map(([at, [, , to]]) => `${x(at)},${y(to)}`).concat(known.slice().reverse().map(([at, [, from]]) => `${x(at)},${y(from)}`));
    out += `<polygon points="${band.join(" ")}" fill="${colour(place)}" opacity=".16"/>`;
  }
  for (const {place, points} of lines) {
    out += `<polyline points="${points.map(([at, [value]]) => `${x(at)},${y(value)}`).join(" ")}" fill="none" stroke="${colour(place)}" stroke-width="2.2" stroke-linejoin="round" stroke-dasharray="${dash(place)}"/>`;
    if (points.length) out += mark(place, x(points.at(-1)[0]), y(points.at(-1)[1][0]), 5);
  }
  return out + "</g></svg>";
}

function drawCurve(arms) {
  const W = 480, H = 330, L = 58, R = 12, T = 10, B = 38;
  const used = arms.map((arm, place) => [place, arm.curve.filter(bin => bin.shown)]);
  const all = used.flatMap(([, bins]) => bins);
  if (!all.length) return nothing("No window has closed yet.");
  const enough = all.filter(bin => bin.shown >= 30);
  const top = Math.min(1, 1.1 * Math.max(...(enough.length ? enough : all).flatMap(bin => [bin.predicted, bin.observed])) || .01);
  const most = Math.max(...all.map(bin => bin.shown));
  const x = rate => L + (W - L - R) * Math.min(rate, top) / top, y = rate => H - B - (H - T - B) * Math.min(rate, top) / top;
  let out = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="observed against predicted click rate">`;
  for (const rate of steps(0, top)) out += `<path class="rule" d="M${L} ${y(rate)}H${W - R}"/><text x="${L - 8}" y="${y(rate) + 4}" text-anchor="end">${percent(rate, 0)}</text><text x="${x(rate)}" y="${H - B + 17}" text-anchor="middle">${percent(rate, 0)}</text>`;
  out += `<path class="zero" d="M${x(0)} ${y(0)}L${x(top)} ${y(top)}"/><text x="${(L + W - R) / 2}" y="${H - 4}" text-anchor="middle">predicted</text><text transform="translate(10 ${(H - B + T) / 2}) rotate(-90)" text-anchor="middle">observed</text>`;
  for (const [place, bins] of used) {
    const fit = bins.filter(bin => bin.predicted <= top && bin.observed <= top);
    out += `<polyline points="${fit.map(bin => `${x(bin.predicted)},${y(bin.observed)}`).join(" ")}" fill="none" stroke="${colour(place)}" stroke-width="2" stroke-dasharray="${dash(place)}"/>`;
    for (const bin of fit) out += mark(place, x(bin.predicted), y(bin.observed), 2.5 + 6 * Math.sqrt(bin.shown / most));
  }
  return out + "</svg>";
}
