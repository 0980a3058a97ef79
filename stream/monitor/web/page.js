"use strict";
// Asks the monitor how things stand, every two seconds, and shows it.

const $ = id => document.getElementById(id);
const number = value => value == null ? "–" : value.toLocaleString("en");
const fixed = (value, digits) => value == null ? "–" : value.toFixed(digits);
const p = value => value == null ? "unknown" : value < .0001 ? "< 0.0001" : `= ${+value.toPrecision(2)}`;
const milliseconds = value => value == null ? "–" : value < 10 ? value.toFixed(1) + " ms" : value < 10000 ? Math.round(value) + " ms" : (value / 1000).toFixed(1) + " s";
const length = ms => ms < 12e4 ? `${+(ms / 1000).toPrecision(3)} s` : ms < 72e5 ? `${+(ms / 6e4).toPrecision(3)} min` : `${+(ms / 36e5).toPrecision(3)} h`;
const version = state => state.version || state.epoch ? `${state.epoch}.${state.version}` : "–";

function showVerdict({verdict, experiment, interleaved, guardrail_words: kept, guardrails, explore}) {
  const fatal = verdict.doubts.some(doubt => doubt.fatal);
  $("name").textContent = experiment.name;
  const broken = guardrails.some(({arm, state}) => state === "breaks" && arm === (verdict.winner ?? verdict.pairs[0]?.arm));
  $("verdict").className = `card verdict ${verdict.winner ? "won" : ""} ${verdict.doubts.length || broken ? "bad" : ""}`;
  $("sentence").textContent = `${verdict.sentence}${kept}.`;
  const grounds = [];
  if (!fatal && verdict.pairs.length) {
    const [{p: chance, drift_p: drift, arm, against}] = verdict.pairs;
    grounds.push(`p (${arm} and ${against} are alike) ${p(chance)}`, `p (the lift is steady) ${p(drift)}`);
  }
  grounds.push(`p (users are divided as the shares say) ${p(verdict.mismatch_p)}`);
  if (explore < 1) grounds.push(`a bandit chooses the shares: the verdict is on the ${percent(explore, 0)} of the users who explore`);
  grounds.push(`It may be looked at any time; among arms that are alike it names a winner in at most ${percent(verdict.alpha, 0)} of all experiments.`);
  $("grounds").textContent = grounds.join(" · ");
  $("mixed").textContent = Object.entries(interleaved).map(([arm, pair]) => `${arm} interleaves ${pair.join(" and ")}: it is not compared here; samstream experiment report says which of the two its users prefer.`).join(" ");
}

function showNumbers(state) {
  const sum = name => state.arms.reduce((total, arm) => total + arm.so_far[name], 0);
  const answering = state.arms.filter(arm => arm.answers), answers = answering.reduce((total, arm) => total + arm.answers, 0);
  const worst = answering.length ? Math.max(...answering.map(arm => arm.latency_ms.p99)) : null;
  const tiles = [
    [number(sum("users")), "users"], [number(sum("shown")), "items shown"], [number(sum("clicks")), "clicks"],
    [milliseconds(worst), "latency p99 (slowest arm)"],
    [state.freshness_s.p50 == null ? "–" : `${state.freshness_s.p50.toFixed(1)} / ${state.freshness_s.p99.toFixed(1)} s`, "click to update, p50 / p99"],
    [number(answers), "answers, last minute"],
  ];
  $("tiles").innerHTML = tiles.map(([value, label]) => `<div class="card tile"><b>${value}</b><span>${label}</span></div>`).join("");
  $("legend").innerHTML = state.arms.map((arm, place) => `<span>${key(place)}${escape(arm.name)}</span>`).join("");
  $("arms").innerHTML = state.arms.map((arm, place) => {
    const so = arm.so_far, [rate, low, high] = so.ctr;
    return `<tr><td>${key(place)}<b>${escape(arm.name)}</b></td><td>${number(so.users)}<small>${number(so.effective_users)}</small></td><td>${number(so.shown)}</td><td>${number(so.clicks)}</td>
    <td><b>${percent(rate, 2)}</b><small>${low == null ? "" : `${percent(low)} to ${percent(high)}`}</small></td><td>${fixed(arm.log_loss, 4)}</td><td>${fixed(arm.calibration, 3)}</td>
    <td>${milliseconds(arm.latency_ms.p50)} / ${milliseconds(arm.latency_ms.p99)}</td><td>${version(arm.served)}<small>${arm.published ? `newest ${version(arm.published)}` : ""}</small></td></tr>`;
  }).join("");
  const kept = state.to ? `the ${length(state.to - state.from)} of closed windows that are kept` : "closed windows";
  $("arms-note").textContent = `Users, items and click rates of the whole experiment, with any-time intervals; log loss and calibration of ${kept}; latency of the last minute.`;
  const words = [["repeated", "items that came again and were not counted again"], ["late", "outcomes after their window had closed; counted"],
    ["revised", "records that this monitor published again, since more had come"], ["too_late", "outcomes too late to be told from repeats; not counted"],
    ["unremembered", "items beyond what a window remembers; a repeat would count twice"], ["unreadable", "records that are no outcomes"]];
  const lost = new Set(["too_late", "unremembered", "unreadable"]);
  $("counters").innerHTML = words.map(([name, text]) => `<dt class="${lost.has(name) && state.counters[name] ? "some" : ""}">${number(state.counters[name])}</dt><dd>${text}</dd>`).join("");
  $("counters-note").textContent = `${number(state.windows.closed)} windows of ${length(state.window_ms)} are closed, ${number(state.windows.open)} wait for their last outcomes.`;
}

function showCourse({course, verdict, arms, event_time: now}) {
  const place = name => arms.findIndex(arm => arm.name === name);
  const middle = course.ends.map(end => end - course.width / 2);
  const rates = Object.entries(course.rates).map(([name, points]) => ({place: place(name), points: points.map((interval, span) => [middle[span], interval])}));
  $("rates").innerHTML = drawOverTime(rates, {label: "click rate of each arm over time", share: .98, format: (value, range) => percent(value, range < .05 ? 1 : 0)});
  $("rates-note").textContent = `A point is what was shown in ${length(course.width)}, the band its 95% interval over users.`;
  const fatal = verdict.doubts.some(doubt => doubt.fatal);
  const lifts = course.lifts.map(({arm, against, lift}) => {
    const points = lift.map((interval, span) => [course.ends[span], interval]);
    const pair = verdict.pairs.find(pair => pair.arm === arm && pair.against === against);
    if (!fatal && now > (course.ends.at(-1) ?? 0)) points.push([now, pair.lift]);
    return {place: place(course.lifts.length > 1 ? against : arm), points};
  });
  const leader = verdict.pairs.length ? verdict.pairs[0].arm : "";
  const others = course.lifts.length > 1 ? "each other arm (in its colour)" : course.lifts[0]?.against;
  $("lifts").innerHTML = course.lifts.length ? drawOverTime(lifts, {label: `lift of ${escape(leader)} over time`, format: (value, range) => signed(value, range < .05 ? 1 : 0), share: .65, zero: true}) : nothing("There is nothing to compare.");
  $("lifts-note").textContent = leader ? `${leader} against ${others}, of all until then, with the interval that holds at all looks at once. Above 0, ${leader} is better.` : "";
}

const states = {breaks: "breaks", holds: "holds", undecided: "cannot be told yet", unknown: "too few data"};

function showGuardrails({guardrails, arms}) {
  $("guardrails-card").hidden = !guardrails.length;
  const place = name => arms.findIndex(arm => arm.name === name);
  $("guardrails").innerHTML = guardrails.map(({guardrail, arm, limit, state, found, interval}, row) => {
    const first = row === 0 || guardrails[row - 1].guardrail !== guardrail || guardrails[row - 1].limit !== limit;
    return `<tr class="${first ? "" : "same"}"><td>${first ? `${escape(guardrail)}<small>${escape(limit)}</small>` : ""}</td><td>${key(place(arm))}<b>${escape(arm)}</b></td>
    <td class="state ${state}">${states[state]}</td><td>${interval ? `<b>${escape(found)}</b><small>${escape(interval)}</small>` : `<small>${escape(found)}</small>`}</td></tr>`;
  }).join("");
}

let heard = 0;
async function refresh() {
  try {
    const answer = await fetch("api/state", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    const state = await answer.json();
    showVerdict(state); showNumbers(state); showGuardrails(state); showCourse(state);
    $("curve").innerHTML = drawCurve(state.arms);
    heard = Date.now();
    $("when").className = "note";
    $("when").textContent = `${clock(heard, true)}${state.event_time ? ` · newest impression ${clock(state.event_time, true)}` : ""}`;
  } catch (error) {
    console.error(error);
    $("when").className = "note bad";
    $("when").textContent = `The monitor does not answer${heard ? ` since ${clock(heard, true)}` : ""}.`;
  }
  setTimeout(refresh, 2000);
}
refresh();
