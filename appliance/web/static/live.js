// What the pedal says of itself, twice a second: light, chart, levels and figures.

import { byId, rows } from "./dom.js";

const WIDTH = 600, HEIGHT = 160;
const LEVELS = { guitar: "guitar_db", answer: "answer_db", amp: "amp_db" };

export function follow(onStatus, onLost) {
  const source = new EventSource("/api/live");
  source.addEventListener("message", (event) => {
    const status = JSON.parse(event.data);
    show(status);
    onStatus(status);
  });
  source.addEventListener("error", () => {
    trouble("the page's service does not answer: is `ghostnote web` running?");
    if (source.readyState === EventSource.CLOSED) onLost();
  });
}

function show(status) {
  trouble(status.line || "");
  if (status.line) {
    light("no pedal", "");
    return;
  }
  light(status.health, status.health);
  byId("playing").textContent = `${status.engine}, “${status.prompt}”, ${status.delay_ms.toFixed(0)} ms after the guitar`;
  chart(status.slack_ms, status.budgets.slack_ms);
  for (const [id, key] of Object.entries(LEVELS)) level(id, status.levels[key]);
  rows(byId("facts"), facts(status));
}

function trouble(line) {
  say(byId("trouble"), line);
}

function light(word, health) {
  say(byId("health"), word);
  byId("health").dataset.health = health;
}

function say(element, line) {
  if (element.textContent !== line) element.textContent = line; // a reader would say it again
}

// Slack of the last minute: height is what an answer left until it was due, the dashed line the budget.
function chart(pairs, budgetMs) {
  if (!pairs.length) return;
  const slacks = pairs.map((pair) => pair[1]);
  const least = Math.min(...slacks, 0), most = Math.max(...slacks, 2 * budgetMs);
  const from = pairs[0][0], until = Math.max(pairs[pairs.length - 1][0], from + 1);
  const x = (seconds) => (WIDTH * (seconds - from)) / (until - from);
  const y = (ms) => HEIGHT - 8 - ((HEIGHT - 16) * (ms - least)) / (most - least);
  byId("slack").setAttribute("points", pairs.map(([seconds, ms]) => `${x(seconds).toFixed(1)},${y(ms).toFixed(1)}`).join(" "));
  for (const end of ["y1", "y2"]) byId("budget").setAttribute(end, y(budgetMs).toFixed(1));
  const words = `Slack: ${slacks[slacks.length - 1].toFixed(0)} ms now, least ${Math.min(...slacks).toFixed(0)} ms of the last ` +
    `${(until - from).toFixed(0)} s; dashed: the budget of ${budgetMs.toFixed(0)} ms`;
  byId("chart-words").textContent = words;
}

function level(id, db) {
  byId(id).value = db;
  byId(id).nextElementSibling.textContent = db > -90 ? `${db.toFixed(0)} dBFS` : "silent";
}

function facts(status) {
  const { audio, worker, machine } = status;
  const counts = (of) => Object.entries(of).map(([name, count]) => `${name} ${count}`).join(", ") || "none";
  const limit = status.step_limit ? `, the governor allows ${status.step_limit}` : "";
  return [
    ["Played", clock(status.seconds)],
    ["Blocks", `${worker.generated} answered, ${worker.prefilled} only heard, ${audio.late_blocks} late (the start included)`],
    ["Steps", `${status.steps} wished${limit}; shed in ${worker.shed} blocks`],
    ["Xruns", String(audio.capture_xruns + audio.playback_xruns + audio.gaps)],
    ["Limited", `${audio.clipped_frames} frames; guitar at full scale in ${audio.clipped_inputs} periods`],
    ["Missed", counts(status.misses)],
    ["Machine", [machine.celsius && `${machine.celsius.toFixed(0)} °C`, machine.clock_mhz && `${machine.clock_mhz.toFixed(0)} MHz`]
      .filter(Boolean).join(", ") || "tells neither clock nor heat"],
  ];
}

function clock(seconds) {
  const whole = Math.floor(seconds), two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}
