"use strict";

const at = (id) => document.getElementById(id);
const PREVIEW = 1024; // pixels that the photo which asks is shown with at most
const asked = new Map(); // by the name in the history: a photo that has asked, what is seen of it, the part
let running = null; // the request under way

// The question is what the address says, #ID of a stored picture, or else what the history remembers.
function storedId() {
  const id = location.hash.slice(1);
  return /^\d+$/.test(id) ? id : null;
}

function askedPhoto() {
  return storedId() === null ? (asked.get(history.state?.asked) ?? null) : null;
}

async function fetchFrom(address, options) {
  const response = await fetch(address, options);
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
}

async function ask() {
  const [id, question] = [storedId(), askedPhoto()];
  running?.abort();
  if (id === null && question === null) return;
  const { signal } = (running = new AbortController());
  const options = new URLSearchParams({ k: at("k").value, where: at("where").value });
  if (question?.box) options.set("box", question.box.join());
  if (question?.box) options.set("of", [question.seen.width, question.seen.height].join());
  tell("Searching …");
  try {
    const started = performance.now();
    const response =
      id === null
        ? await fetchFrom(`/api/query?${options}`, { method: "POST", body: question.file, signal })
        : await fetchFrom(`/api/query/${id}?${options}`, { signal });
    const { hits } = await response.json();
    show(hits);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    tell(hits.length ? `${hits.length} pictures, ${seconds} s` : "No picture was found");
  } catch (error) {
    if (signal.aborted) return;
    show([]);
    tell(error.message, true);
  }
}

function tell(text, isError = false) {
  at("status").textContent = text;
  at("status").className = isError ? "error" : "";
}

function show(hits) {
  at("hits").replaceChildren(...hits.map(hitElement));
}

function hitElement(hit) {
  const name = hit.path.split(/[\\/]/).pop();
  const image = document.createElement("img");
  image.src = `/pictures/${hit.id}`;
  image.loading = "lazy";
  image.alt = hit.label ? `${hit.label}, ${name}` : name;
  const button = document.createElement("button");
  button.title = "More like this";
  button.append(image);
  button.addEventListener("click", () => (location.hash = hit.id));
  const facts = document.createElement("div");
  facts.className = "facts";
  facts.title = hit.path;
  facts.textContent = [hit.distance.toFixed(3), hit.label, name].filter(Boolean).join(" · ");
  const item = document.createElement("li");
  item.append(button, facts);
  return item;
}

// Shows what the address and the history say, and asks it.
async function askAgain() {
  const [id, question] = [storedId(), askedPhoto()];
  at("asked").hidden = true;
  if (id !== null) {
    showAsked(`/pictures/${id}?side=${PREVIEW}`, `Stored picture ${id}`);
  } else if (question !== null) {
    // The picture upright as the server sees it, so that a part that is seen is the part that is asked.
    question.seen ??= await seen(question.file);
    if (askedPhoto() !== question) return;
    const name = question.file.name || "picture";
    if (question.seen) showAsked(question.seen.address, `${name}: drag over a part to ask with it alone`);
    drawBox(question);
  } else {
    show([]);
    tell("");
  }
  ask();
}

async function seen(file) {
  try {
    const response = await fetchFrom(`/api/picture?side=${PREVIEW}`, { method: "POST", body: file });
    const picture = new Image();
    picture.src = URL.createObjectURL(await response.blob());
    await picture.decode();
    return { address: picture.src, width: picture.naturalWidth, height: picture.naturalHeight };
  } catch {
    return null; // the answer to the question says why
  }
}

function showAsked(address, caption) {
  at("picture").src = address;
  at("caption").textContent = caption;
  at("asked").hidden = false;
  at("box").hidden = true;
}

function askByPhoto(file) {
  const name = `${performance.timeOrigin} ${asked.size}`; // histories outlive pages
  asked.set(name, { file, seen: null, box: null });
  history.pushState({ asked: name }, "", location.pathname);
  askAgain();
}

// A part of the photo: dragged over what is seen of it, kept in pixels of that.

function drawBox({ box, seen }) {
  at("box").hidden = box === null;
  if (box === null) return;
  const [left, top, width, height] = box;
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign(at("box").style, {
    left: percent(left, seen.width), top: percent(top, seen.height),
    width: percent(width, seen.width), height: percent(height, seen.height),
  });
}

at("frame").addEventListener("pointerdown", (down) => {
  const question = askedPhoto();
  if (!question?.seen || down.button !== 0) return;
  down.preventDefault();
  const frame = at("frame");
  const edge = frame.getBoundingClientRect();
  const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), 1) * most);
  const place = (event) => [
    inside((event.clientX - edge.left) / edge.width, question.seen.width),
    inside((event.clientY - edge.top) / edge.height, question.seen.height),
  ];
  const from = place(down);
  const before = question.box;
  frame.setPointerCapture(down.pointerId);
  const move = (event) => {
    const to = place(event);
    const [width, height] = [Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
    const dragged = Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > 6;
    const isPart = dragged && width > 0 && height > 0;
    question.box = isPart ? [Math.min(from[0], to[0]), Math.min(from[1], to[1]), width, height] : null;
    drawBox(question);
  };
  const end = (event) => {
    for (const [name, listener] of Object.entries(listeners)) frame.removeEventListener(name, listener);
    move(event); // a click without a drag takes the part away
    if (question.box !== null || before !== null) ask();
  };
  const listeners = { pointermove: move, pointerup: end, pointercancel: end };
  for (const [name, listener] of Object.entries(listeners)) frame.addEventListener(name, listener);
});

// What can be a picture: chosen, dropped, pasted.

function firstFile(transfer) {
  return [...(transfer?.files ?? [])][0] ?? null;
}

at("file").addEventListener("change", () => {
  const file = firstFile(at("file"));
  at("file").value = ""; // so that the same file can be chosen again
  if (file !== null) askByPhoto(file);
});
document.addEventListener("paste", (event) => {
  const file = firstFile(event.clipboardData);
  if (file !== null) askByPhoto(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = firstFile(event.dataTransfer);
  if (file !== null) askByPhoto(file);
});

at("k").addEventListener("input", () => (at("count").value = at("k").value));
at("k").addEventListener("change", ask);
at("where").addEventListener("change", ask);
window.addEventListener("popstate", askAgain);

fetchFrom("/api/gallery").then(
  async (response) => {
    const about = await response.json();
    const labels = about.labels ? `, ${about.labels.toLocaleString()} labels` : "";
    at("about").textContent = `${about.name}: ${about.pictures.toLocaleString()} pictures${labels}`;
    if (!about.photos) at("hint").textContent = "This gallery has no model: only its own pictures can ask";
    askAgain();
  },
  (error) => tell(error.message, true),
);
