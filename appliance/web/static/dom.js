// Elements, made and filled. Text is always set as text: nothing that a bundle or a preset is called can become markup.

export const byId = (id) => document.getElementById(id);

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export function rows(list, pairs) {
  if (list.children.length !== 2 * pairs.length) {
    list.replaceChildren(...pairs.flatMap(([what]) => [make("dt", {}, what), make("dd")]));
  }
  pairs.forEach(([, found], index) => {
    const cell = list.children[2 * index + 1];
    if (cell.textContent !== found) cell.textContent = found;
  });
}

// Does what a button is for, once at a time, and says in the section's line how it ended.
export async function act(line, button, what) {
  button.disabled = true;
  line.classList.remove("bad");
  try {
    line.textContent = (await what()) || "";
  } catch (error) {
    line.textContent = error.message;
    line.classList.add("bad");
  } finally {
    button.disabled = false;
  }
}
