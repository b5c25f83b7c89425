// What the page says to the pedal, and how it hears of what was refused: every answer that is no file is JSON, with a line in it.

export class Refused extends Error {
  constructor(status, line) {
    super(line);
    this.status = status;
  }
}

async function answered(response) {
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, said.line || `the page answers ${response.status}`);
  return said;
}

export async function ask(path) {
  return answered(await reach(path, {}));
}

export async function tell(path, method = "POST", what = {}) {
  return answered(await reach(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(what) }));
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Refused(0, "the page's service does not answer: is `ghostnote web` running?");
  }
}

// fetch knows nothing of progress, so this is the older way.
export function upload(path, file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      const said = request.response || {};
      if (request.status < 300) resolve(said);
      else reject(new Refused(request.status, said.line || `the page answers ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Refused(0, "the upload broke off")));
    request.send(file);
  });
}
