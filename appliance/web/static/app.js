// The page begins here: a token for a cookie, once; then everything that it shows.

import { byId } from "./dom.js";
import { showEngines } from "./engines.js";
import { showFlights } from "./flights.js";
import { follow } from "./live.js";
import { note, showPresets } from "./presets.js";
import { ask, tell } from "./talk.js";

const login = byId("login");

async function begin() {
  const token = location.hash.slice(1);
  history.replaceState(null, "", location.pathname); // not into the history, not into a screenshot
  if (token) await enter(token);
  else await open();
}

async function enter(token) {
  try {
    await tell("/api/login", "POST", { token });
  } catch (error) {
    return askForToken(error.message);
  }
  return open();
}

async function open() {
  try {
    await ask("/api/flights");
  } catch (error) {
    return askForToken(error.status === 401 ? "" : error.message);
  }
  login.hidden = true;
  byId("page").hidden = false;
  follow(note, () => askForToken("the token is no longer what it was"));
  return Promise.allSettled([showPresets(), showEngines(), showFlights()]);
}

function askForToken(line) {
  byId("page").hidden = true;
  login.hidden = false;
  login.querySelector(".line").textContent = line;
  byId("token").focus();
}

login.addEventListener("submit", (event) => {
  event.preventDefault();
  enter(byId("token").value);
});

begin();
