// Presets: a list to choose from, and a form whose fields follow from what the pedal says that a preset keeps.

import { act, byId, make } from "./dom.js";
import { ask, tell } from "./talk.js";

const TITLES = {
  prompt: "Prompt", second_prompt: "Second prompt", delay_ms: "Delay, ms", subdivision: "Subdivision", mix: "Mix", repeats: "Repeats",
  level: "Level", tone: "Tone", morph: "Morph", stray: "Stray", jam: "Jam", steps: "Steps",
};
const WRITTEN_MS = 1000; // the pedal writes when it has time
const form = byId("preset-form"), line = form.querySelector(".line");
let latest = null; // of what the pedal says of itself

export async function showPresets() {
  const { presets, rules } = await ask("/api/presets");
  if (!byId("sound").children.length) makeFields(rules);
  byId("preset-list").replaceChildren(...(presets.length ? presets.map(item) : [make("li", {}, "No preset has been saved yet.")]));
  mark();
}

export function note(status) {
  latest = status;
  const known = byId("prompts"), prompts = status.prompts || [];
  if (known.children.length !== prompts.length) known.replaceChildren(...prompts.map((value) => make("option", { value })));
  if (!form.elements.place.value && byId("sound").children.length) fill(status.preset, "", status.sound); // begin with what sounds
  mark();
}

function mark() {
  for (const one of byId("preset-list").children) one.setAttribute("aria-current", String(Boolean(latest) && one.dataset.place === latest.preset));
}

function item(preset) {
  if (preset.line) return make("li", {}, make("span", { class: "what" }, `${preset.place}: `, make("small", {}, preset.line)));
  const { place, name, sound } = preset;
  const playing = make("button", { type: "button", "aria-label": `Play ${name}` }, "Play");
  playing.addEventListener("click", () => act(line, playing, async () => (await tell(`/api/presets/${place}/load`)).line));
  const editing = make("button", { type: "button", "aria-label": `Edit ${name}`, click: () => edit(preset) }, "Edit");
  const what = make("span", { class: "what" }, `${place} ${name}`, make("small", {}, `${sound.prompt || "first prompt"}, ${sound.delay_ms.toFixed(0)} ms`));
  return make("li", { "data-place": place }, what, playing, editing);
}

function makeFields(rules) {
  byId("sound").replaceChildren(...Object.entries(rules).map(([name, rule]) => field(name, rule)));
}

function field(name, rule) {
  const id = `sound-${name}`, shown = make("output", { for: id });
  const input = inputFor(name, id, rule);
  if (input.type === "range") input.addEventListener("input", () => (shown.textContent = input.value));
  return make("div", {}, make("label", { for: id }, TITLES[name] || name, shown), input);
}

function inputFor(name, id, rule) {
  if (rule.options.length) return make("select", { id, name }, ...rule.options.map((option) => make("option", {}, option)));
  if (rule.kind === "bool") return make("input", { id, name, type: "checkbox" });
  if (rule.kind === "str") return make("input", { id, name, list: "prompts", autocomplete: "off" });
  const step = rule.kind === "int" ? 1 : rule.high > 100 ? "any" : 0.01;
  return make("input", { id, name, type: rule.high > 100 ? "number" : "range", min: rule.low, max: rule.high, step });
}

function edit({ place, name, sound }) {
  fill(place, name, sound);
  form.elements.name.focus();
}

function fill(place, name, sound) {
  form.elements.place.value = place;
  form.elements.name.value = name;
  for (const [key, value] of Object.entries(sound)) {
    const input = byId(`sound-${key}`);
    if (!input) continue;
    if (input.type === "checkbox") input.checked = value;
    else input.value = input.type === "number" ? Math.round(10 * value) / 10 : value;
    input.dispatchEvent(new Event("input"));
  }
  line.textContent = "";
}

function sound() {
  const found = {};
  for (const input of byId("sound").querySelectorAll("input, select")) {
    const numeric = input.type === "range" || input.type === "number";
    found[input.name] = input.type === "checkbox" ? input.checked : numeric ? Number(input.value) : input.value;
  }
  return found;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { place, name } = form.elements;
  act(line, event.submitter || form.querySelector("button"), async () => {
    const said = await tell(`/api/presets/${place.value}`, "PUT", { name: name.value, sound: sound() });
    await showPresets();
    setTimeout(showPresets, WRITTEN_MS);
    return said.line;
  });
});

byId("as-it-is").addEventListener("click", () => {
  if (latest && latest.sound) fill(form.elements.place.value || latest.preset, form.elements.name.value, latest.sound);
  else line.textContent = "the pedal does not answer: there is nothing to take";
});
