// The live page: Server-Sent Events of /events → picture, masks, numbers. No library, nothing from elsewhere.
"use strict";

const FLOOR_DBFS = -60;
const TIMELINE_S = 20;
const SILENT_MS = 4000; // the server says something every second
const at = (id) => document.getElementById(id);
const rgb = (c, alpha = 1) => `rgba(${c[0]}, ${c[1]}, ${c[2]}, ${alpha})`;

let colors = {}; // class id: [r, g, b]
let heardMs = performance.now();
let pending = null; // the newest frame that is not drawn yet
let drawing = false;
let state = null;
const past = []; // {ms, level, colors}
const arrivals = [];

function setText(id, text) {
  const element = at(id);
  if (element.textContent !== text) element.textContent = text;
}

function fillList(list, items, make) {
  list.replaceChildren(...items.map(make));
}

function item(tag, color, ...texts) {
  const element = document.createElement(tag);
  if (color) {
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = rgb(color);
    element.append(dot);
  }
  element.append(...texts);
  return element;
}

function onInfo(info) {
  colors = Object.fromEntries(info.classes.map((c) => [c.id, c.color]));
  fillList(at("legend"), info.classes.filter((c) => c.id > 0), (c) => {
    const element = item("li", c.color, c.name);
    element.dataset.id = c.id;
    return element;
  });
  setText("model", `${info.model.name} · ${info.model.backend} ${info.model.precision}`);
}

function onState(next) {
  state = next;
  const status = next.status;
  setText("camera", status ? status.camera : "–");
  setText("microphone", status ? status.microphone : "–");
  if (status && status.latency_ms.p50 !== undefined) {
    setText("percentiles", `${status.latency_ms.p50.toFixed(1)} / ${(status.latency_ms.p99 ?? NaN).toFixed(1)} ms`);
  }
  showState();
}

function showState() {
  let name = "live", text = "";
  if (performance.now() - heardMs > SILENT_MS) {
    [name, text] = ["gone", "The page's server does not answer; trying again."];
  } else if (!state) {
    name = "connecting";
  } else if (state.why) {
    [name, text] = [state.stale && state.masks ? "stale" : "waiting", state.why];
  } else if (state.status && state.status.state === "degraded") {
    [name, text] = ["degraded", state.status.text];
  }
  document.body.dataset.state = name;
  setText("pill", name);
  at("banner").hidden = !text;
  setText("banner", text);
}

function onFrame(frame) {
  const now = performance.now();
  arrivals.push(now);
  while (arrivals.length && now - arrivals[0] > 2000) arrivals.shift();
  past.push({ ms: now, level: level(frame.audio), colors: frame.objects.map(colorOf) });
  while (past.length && now - past[0].ms > TIMELINE_S * 1000) past.shift();
  pending = frame;
  if (!drawing) draw();
}

const colorOf = (object) => colors[object.class_id] || object.color;
const level = (audio) => Math.min(Math.max(1 - audio.rms_dbfs / FLOOR_DBFS, 0), 1);

async function draw() {
  drawing = true;
  while (pending) {
    const frame = pending;
    pending = null;
    let picture = null;
    if (frame.jpeg) {
      try {
        picture = await createImageBitmap(new Blob([bytes(frame.jpeg)], { type: "image/jpeg" }));
      } catch (error) { /* not a picture: black */ }
    }
    if (!document.hidden) await new Promise(requestAnimationFrame);
    paint(frame, picture);
    if (picture) picture.close();
    numbers(frame);
    timeline();
  }
  drawing = false;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function paint(frame, picture) {
  const canvas = at("picture"), zoom = Math.max(1, Math.ceil(960 / frame.image.width));
  const width = frame.image.width * zoom, height = frame.image.height * zoom;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  if (picture) context.drawImage(picture, 0, 0, width, height);
  const [a, b, c, d, e, f] = frame.mask.to_image.map((value) => value * zoom);
  context.setTransform(a, d, b, e, c, f);
  for (const object of frame.objects) context.drawImage(tinted(object, frame.mask), 0, 0);
  context.setTransform(1, 0, 0, 1, 0, 0);
  const taken = []; // labels never cover each other
  for (const object of frame.objects) label(context, object, zoom, width, height, taken);
}

// A mask as a picture of its own: colour, half transparent, its rim opaque.
function tinted(object, mask) {
  const { width, height } = mask, stride = (width + 7) >> 3, bits = bytes(object.bits);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && (bits[y * stride + (x >> 3)] >> (7 - (x & 7))) & 1;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), color = colorOf(object);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      if (!inside(x, y)) continue;
      const rim = !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1));
      image.data.set([color[0], color[1], color[2], rim ? 255 : 115], at);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function label(context, object, zoom, width, height, taken) {
  const size = Math.max(18, Math.round(width / 48)), text = `${object.label} ${Math.round(object.score * 100)}%`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const boxWidth = context.measureText(text).width + size * 0.8, boxHeight = size * 1.5;
  const [x, y, w] = object.bbox.map((value) => value * zoom);
  const left = Math.min(Math.max(x + (w - boxWidth) / 2, 0), Math.max(width - boxWidth, 0));
  let top = Math.max(y - boxHeight, 0);
  const covers = (t) => left < t.left + t.width && t.left < left + boxWidth && top < t.top + boxHeight && t.top < top + boxHeight;
  while (taken.some(covers)) top += boxHeight;
  if (top + boxHeight > height) return; // no room is left for it; the list has it
  taken.push({ left, top, width: boxWidth });
  context.fillStyle = rgb(colorOf(object));
  context.fillRect(left, top, boxWidth, boxHeight);
  context.fillStyle = "#101214";
  context.textBaseline = "middle";
  context.fillText(text, left + size * 0.4, top + boxHeight / 2);
}

function numbers(frame) {
  const ms = (value) => (value === undefined ? "–" : `${value.toFixed(1)} ms`);
  setText("source", frame.source);
  setText("seq", `${frame.seq}`);
  at("hint").hidden = frame.jpeg !== null;
  const span = arrivals.length > 1 ? arrivals[arrivals.length - 1] - arrivals[0] : 0;
  setText("fps", span > 0 ? ((arrivals.length - 1) * 1000 / span).toFixed(1) : "–");
  setText("latency", ms(frame.latency_ms.total));
  setText("infer", ms(frame.latency_ms.infer));
  setText("age", ms(frame.age_ms ?? undefined));
  setText("skew", ms(frame.av_skew_ms));
  const sound = frame.audio;
  at("level").style.width = `${level(sound) * 100}%`;
  const words = [sound.rms_dbfs > -120 ? `${sound.rms_dbfs.toFixed(0)} dBFS` : "no signal"];
  if (sound.silent) words.push("silent");
  if (sound.clipped) words.push("clipped");
  if (sound.status !== "ok") words.push(`sound ${sound.status}`);
  setText("audio", words.join(" · "));
  const drops = Object.entries({ ...frame.drops, "on the way here": state ? state.dropped : 0 }).filter(([, n]) => n);
  const rows = (drops.length ? drops : [["none", ""]]).flatMap(([reason, n]) => [item("dt", null, reason), item("dd", null, `${n}`)]);
  at("drops").replaceChildren(...rows);
  const regions = new Map(); // label: its regions, best first
  for (const object of [...frame.objects].sort((one, other) => other.score - one.score)) {
    regions.set(object.label, [...(regions.get(object.label) || []), object]);
  }
  const sounding = [...regions.values()].map((list) => list[0]);
  fillList(at("sounding"), sounding, (best) => {
    const count = regions.get(best.label).length, name = count > 1 ? `${best.label} × ${count}` : best.label;
    return item("li", colorOf(best), item("b", null, name), item("span", null, `${Math.round(best.score * 100)}%`));
  });
  if (!sounding.length) {
    const nothing = item("li", null, "nothing");
    nothing.className = "dim";
    at("sounding").append(nothing);
  }
  const on = new Set(sounding.map((o) => `${o.class_id}`));
  for (const element of at("legend").children) element.classList.toggle("on", on.has(element.dataset.id));
  document.title = on.size ? `${[...new Set(sounding.map((o) => o.label))].join(", ")} – ${frame.source}` : `${frame.source} – rt-avsac`;
}

function timeline() {
  const canvas = at("timeline"), context = canvas.getContext("2d"), { width, height } = canvas, now = performance.now();
  const style = getComputedStyle(document.documentElement);
  context.clearRect(0, 0, width, height);
  const x = (ms) => width * (1 - (now - ms) / (TIMELINE_S * 1000)), floor = height - 18;
  past.forEach((entry, index) => {
    const left = Math.round(x(entry.ms)), right = index + 1 < past.length ? Math.round(x(past[index + 1].ms)) : width;
    context.fillStyle = style.getPropertyValue("--level");
    context.globalAlpha = 0.55;
    context.fillRect(left, floor - entry.level * (floor - 4), right - left, entry.level * (floor - 4));
    context.globalAlpha = 1;
    entry.colors.forEach((color, row) => {
      const band = 14 / entry.colors.length;
      context.fillStyle = rgb(color);
      context.fillRect(left, height - 15 + row * band, right - left, band);
    });
  });
}

function connect() {
  const events = new EventSource("events");
  const on = (name, act) => events.addEventListener(name, (event) => {
    heardMs = performance.now();
    act(JSON.parse(event.data));
  });
  on("info", onInfo);
  on("state", onState);
  on("frame", onFrame);
  events.onerror = () => {
    showState();
    if (events.readyState === EventSource.CLOSED) { // refused: the browser would not try again by itself
      setTimeout(connect, 1000);
    }
  };
}

at("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = getComputedStyle(root).getPropertyValue("--back").trim() === "#14171b";
  root.dataset.theme = dark ? "light" : "dark";
});
setInterval(showState, 1000);
connect();
