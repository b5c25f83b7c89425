// Engines: what is on the pedal, with the certificate of each; a bundle's way onto it; and which one plays.

import { act, byId, make } from "./dom.js";
import { ask, tell, upload } from "./talk.js";

const section = byId("engines"), form = byId("upload"), bar = byId("progress");
// Two, so that an upload on its way does not talk over why an engine can't play.
const line = section.querySelector(":scope > .line"), arrival = form.querySelector(".line");
const SLOTS = { current: "plays", previous: "the one before", factory: "from the factory", trial: "on trial" };
const LOOK_AGAIN_MS = 700, LOOK_AT_MOST = 170;
let mostBytes = Infinity;

export async function showEngines() {
  const { engines, most_bytes: most } = await ask("/api/engines");
  mostBytes = most;
  byId("engine-list").replaceChildren(...(engines.length ? engines.map(item) : [make("li", {}, "No engine is in the store.")]));
}

function item(engine) {
  const slots = engine.slots.map((slot) => SLOTS[slot] || slot).join(", ");
  const what = make("span", { class: "what" }, `${engine.name} ${engine.number}`,
    make("small", {}, [slots, signed(engine), engine.digest.slice(0, 12)].filter(Boolean).join(" · ")),
    ...[engine.certificate, ...engine.notes].map((note) => make("small", {}, note)));
  const parts = [what];
  if (engine.picture) parts.push(picture(engine));
  if (!engine.slots.includes("current")) parts.push(activation(engine));
  return make("li", { "data-digest": engine.digest, "aria-current": String(engine.slots.includes("current")) }, ...parts);
}

function signed({ key, slots }) {
  if (slots.includes("factory")) return ""; // it came with the program that would check it
  return key ? `signed by ${key}` : "nobody has signed it";
}

function activation({ digest, name, number, slots }) {
  const button = make("button", { type: "button", "aria-label": `Play with ${name} ${number}` }, "Activate");
  const what = slots.includes("factory") ? "factory" : digest;
  button.addEventListener("click", () => act(line, button, () => change(`/api/engines/${what}/activate`)));
  return button;
}

// The pedal begins at once and takes its time: a certificate is looked at, a foot is waited for, one engine fades to the other.
async function change(path) {
  line.textContent = (await tell(path)).line;
  let task;
  do {
    await later();
    task = await ask("/api/engines/task");
    line.textContent = task.line;
  } while (!task.finished);
  await showEngines();
  if (task.failed) throw new Error(task.line);
  return task.line;
}

const later = () => new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));

function picture({ digest, name }) {
  const details = make("details", {}, make("summary", {}, "Certificate"));
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("img")) {
      details.append(make("img", { src: `/api/engines/${digest}/picture`, alt: `Block times of ${name} against the deadline, from its certificate` }));
    }
  });
  return details;
}

byId("rollback").addEventListener("click", (event) => act(line, event.currentTarget, () => change("/api/engines/rollback")));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const file = byId("bundle").files[0];
  act(arrival, form.querySelector("button"), async () => {
    if (file.size > mostBytes) throw new Error(`${file.name} is larger than ${(mostBytes / 1e6).toFixed(0)} MB: [web] upload_mb says what is taken`);
    bar.hidden = false;
    try {
      arrival.textContent = (await upload(`/api/inbox/${encodeURIComponent(file.name)}`, file, (share) => (bar.value = share))).line;
    } finally {
      bar.hidden = true;
    }
    return verdict(file.name);
  });
});

// The store looks at what comes in when it has time, and asks for a foot on the switch where nobody has signed it.
async function verdict(name) {
  for (let times = 0; times < LOOK_AT_MOST; times++) {
    const { state, line: said } = await ask(`/api/inbox/${encodeURIComponent(name)}`);
    if (state === "refused") throw new Error(said);
    if (state === "taken") {
      await showEngines();
      return said;
    }
    arrival.textContent = said;
    await later();
  }
  throw new Error(`${name} is still in the inbox: is the pedal running?`);
}
