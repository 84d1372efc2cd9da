"use strict";

const at = (id) => document.getElementById(id);
let photo = null; // the file that asks, where no stored picture does
let box = null; // of that file: left, top, width, height in its pixels
let running = null; // the request under way

function storedId() {
  const id = location.hash.slice(1);
  return /^\d+$/.test(id) ? id : null;
}

async function fetchJson(address, options) {
  const response = await fetch(address, options);
  const answer = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function ask() {
  const id = storedId();
  if (id === null && photo === null) return;
  running?.abort();
  const request = (running = new AbortController());
  const asked = new URLSearchParams({ k: at("k").value, where: at("where").value });
  if (id === null && box !== null) asked.set("box", box.join(","));
  tell("Searching …");
  try {
    const started = performance.now();
    const found =
      id === null
        ? await fetchJson(`/api/query?${asked}`, { method: "POST", body: photo, signal: request.signal })
        : await fetchJson(`/api/query/${id}?${asked}`, { signal: request.signal });
    show(found.hits);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    tell(found.hits.length ? `${found.hits.length} pictures, ${seconds} s` : "No picture was found");
  } catch (error) {
    if (error.name === "AbortError") return;
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

function showAsked(address, caption) {
  if (at("picture").src.startsWith("blob:")) URL.revokeObjectURL(at("picture").src);
  at("picture").src = address;
  at("caption").textContent = caption;
  at("asked").hidden = false;
  setBox(null);
}

function askByPhoto(file) {
  photo = file;
  if (storedId() !== null) history.pushState(null, "", location.pathname);
  showAsked(URL.createObjectURL(file), `${file.name || "picture"}: drag over a part to ask with it alone`);
  ask();
}

function askByHash() {
  const id = storedId();
  if (id !== null) {
    showAsked(`/pictures/${id}?side=1024`, `Stored picture ${id}`);
    ask();
  } else if (photo !== null) {
    askByPhoto(photo);
  } else {
    running?.abort();
    at("asked").hidden = true;
    show([]);
    tell("");
  }
}

// A part of the photo: dragged over the picture, kept in pixels of the photo.

function setBox(corners) {
  at("box").hidden = corners === null;
  if (corners === null) {
    box = null;
    return;
  }
  const [left, top, right, bottom] = corners;
  Object.assign(at("box").style, {
    left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px`,
  });
  const { naturalWidth, naturalHeight, clientWidth, clientHeight } = at("picture");
  const [across, down] = [naturalWidth / clientWidth, naturalHeight / clientHeight];
  const [x, y] = [Math.floor(left * across), Math.floor(top * down)];
  box = [
    x, y, Math.min(Math.ceil(right * across), naturalWidth) - x, Math.min(Math.ceil(bottom * down), naturalHeight) - y,
  ];
}

at("frame").addEventListener("pointerdown", (down) => {
  if (storedId() !== null || down.button !== 0) return;
  down.preventDefault();
  const frame = at("frame");
  const edge = frame.getBoundingClientRect();
  const inside = (value, most) => Math.min(Math.max(value, 0), most);
  const place = (event) => [
    inside(event.clientX - edge.left, edge.width), inside(event.clientY - edge.top, edge.height),
  ];
  const from = place(down);
  const hadBox = box !== null;
  frame.setPointerCapture(down.pointerId);
  const move = (event) => {
    const to = place(event);
    const corners = [
      Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1]),
    ];
    setBox(corners[2] - corners[0] > 4 && corners[3] - corners[1] > 4 ? corners : null);
  };
  const end = () => {
    frame.removeEventListener("pointermove", move);
    frame.removeEventListener("pointerup", end);
    frame.removeEventListener("pointercancel", end);
    if (box !== null || hadBox) ask();
  };
  frame.addEventListener("pointermove", move);
  frame.addEventListener("pointerup", end);
  frame.addEventListener("pointercancel", end);
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
window.addEventListener("popstate", askByHash);

fetchJson("/api/gallery").then(
  (about) => {
    const labels = about.labels ? `, ${about.labels.toLocaleString()} labels` : "";
    at("about").textContent = `${about.name}: ${about.pictures.toLocaleString()} pictures${labels}`;
    if (!about.photos) at("hint").textContent = "This gallery has no model: only its own pictures can ask";
    askByHash();
  },
  (error) => tell(error.message, true),
);
