// The flight recorder: have the last minutes saved, and take the files away.

import { act, byId, make } from "./dom.js";
import { ask, tell } from "./talk.js";

const line = byId("flights").querySelector(".line"), save = byId("save-flight");
const LOOK_AGAIN_MS = [500, 2000, 5000, 10000, 20000, 40000]; // the pedal saves beside playing, when it has time

export async function showFlights() {
  const { flights } = await ask("/api/flights");
  const items = flights.map(({ name, bytes }) => {
    const link = make("a", { href: `/api/flights/${name}`, download: name }, name);
    return make("li", {}, make("span", { class: "what" }, link, make("small", {}, `${(bytes / 1e6).toFixed(1)} MB`)));
  });
  byId("flight-list").replaceChildren(...items);
}

save.addEventListener("click", () => act(line, save, async () => {
  const said = await tell("/api/flights");
  for (const ms of LOOK_AGAIN_MS) setTimeout(showFlights, ms);
  return said.line;
}));
