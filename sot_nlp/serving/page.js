"use strict";
// Everything that comes from a text is set as textContent, never as HTML.
const settings = JSON.parse(document.getElementById("settings").textContent);
const at = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function option(select, value, text) {
  const element = make("option", "", text);
  element.value = value;
  select.append(element);
}

at("model").textContent = settings.model;
const boxes = settings.columns.map((name) => {
  const label = make("label", "field", name);
  const box = make("textarea");
  box.rows = 3;
  box.maxLength = settings.max_characters;
  box.dir = "auto";
  label.append(box);
  at("fields").append(label);
  return box;
});
for (const [name, meaning] of Object.entries(settings.methods)) option(at("method"), name, meaning);
option(at("toward"), "", "the predicted label");
(settings.labels || []).forEach((name, index) => option(at("toward"), String(index), name));
at("toward").parentElement.hidden = !settings.labels;

function word(piece) {
  if (piece.value === undefined) return piece.cut ? make("span", "cut", piece.text) : piece.text;
  const side = piece.strength > 0 ? " pro" : piece.strength < 0 ? " con" : "";
  const element = make("span", "w" + side, piece.text);
  element.style.setProperty("--s", Math.abs(piece.strength).toFixed(2));
  element.title = piece.value;
  return element;
}

function share(name, value) {
  const element = make("span", "", name + " ");
  element.append(make("b", "", value));
  return element;
}

function show(found) {
  at("prediction").textContent = found.prediction;
  at("bars").replaceChildren(...found.probabilities.map(([name, chance]) => {
    const line = make("div", "bar");
    const fill = make("i");
    fill.style.setProperty("--p", (100 * chance).toFixed(1) + "%");
    line.append(make("span", "name", name), make("span", "track"), make("b", "", (100 * chance).toFixed(1) + " %"));
    line.children[1].append(fill);
    return line;
  }));
  at("how").textContent = found.how;
  at("texts").replaceChildren(...found.texts.map((pieces) => {
    const line = make("p", "text");
    line.dir = "auto";
    line.append(...pieces.map(word));
    return line;
  }));
  at("apart").replaceChildren(...found.summary.map(([name, value]) => share(name, value)));
  at("notes").replaceChildren(...found.notes.map((note) => make("p", "note", note)));
  at("values").replaceChildren(...found.values.map(([name, value]) => {
    const row = make("tr"), cell = make("td");
    cell.append(make("bdi", "", name));
    row.append(make("td", "n", value), cell);
    return row;
  }));
  at("answer").hidden = false;
}

let latest = 0;
async function run() {
  const number = ++latest;
  at("state").textContent = "…";
  at("state").className = "";
  const toward = at("toward").value;
  const question = {
    texts: boxes.map((box) => box.value),
    method: at("method").value,
    toward: toward === "" ? null : Number(toward),
  };
  let answer;
  try {
    const response = await fetch("explain", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question),
    });
    answer = await response.json();
  } catch (error) {
    answer = { error: "the server does not answer; is it still running?" };
  }
  if (number !== latest) return; // a newer question is under way
  if (answer.error) {
    at("state").textContent = answer.error;
    at("state").className = "wrong";
  } else {
    at("state").textContent = "";
    show(answer);
  }
  document.body.dataset.done = String(number);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
for (const box of boxes) {
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });
}
at("method").addEventListener("change", () => { if (!at("answer").hidden) run(); });
at("toward").addEventListener("change", () => { if (!at("answer").hidden) run(); });

// http://…/#text=…&text=…&method=… opens the page with an answer; a browser keeps this part to itself.
const asked = new URLSearchParams(location.hash.slice(1));
asked.getAll("text").slice(0, boxes.length).forEach((text, index) => { boxes[index].value = text; });
if (settings.methods[asked.get("method")]) at("method").value = asked.get("method");
if (asked.has("text")) run();
