// Every head's attention pattern as a thumbnail on one canvas, or one number for each as a colour. Hover previews, click or
// Enter chooses, with shift takes the head out, arrows move, Esc takes the preview back to the chosen head. Python hears of choices only; the selection comes in by a window event, so
// that the payload with the pictures stays the same and is sent once.

const GAP = 3, LABEL = 26, PREVIEW = 264, SMALLEST = 26, LARGEST = 46;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".grid");
  const canvas = root.querySelector("canvas.heads");
  const preview = root.querySelector("canvas.preview");
  const said = root.querySelector(".said"), scale = root.querySelector(".key");
  const grid = read(data);
  const dark = luminance(getComputedStyle(root).getPropertyValue("--st-background-color")) < 0.5;
  const ink = getComputedStyle(root).getPropertyValue("--st-text-color").trim() || (dark ? "#e8eaed" : "#1b1f24");
  const accent = dark ? "#f0934e" : "#b34700";
  const ramp = colours(dark ? grid.dark : grid.light), signedRamp = colours(dark ? grid.dark_signed : grid.light_signed);
  const sheet = paint(grid, ramp);
  let shown = { layer: 0, head: 0, out: [], values: null, signed: false, unit: "", least: 0, order: null };
  let at = 0, hovered = null, places = [];

  function layout() {
    const beside = root.clientWidth > 2 * PREVIEW;
    root.classList.toggle("narrow", !beside);
    const width = Math.max(200, root.clientWidth - (beside ? PREVIEW + 28 : 4));
    const sorted = shown.order;
    const order = grid.pictures.map((_, number) => number);
    if (sorted) order.sort((a, b) => sorted[b] - sorted[a] || a - b);
    let columns = grid.heads, blocks = 1, cell = LARGEST;
    const spread = (n) => Math.floor((width - n * LABEL) / (n * grid.heads)) - GAP;
    for (let n = 1; n <= grid.layers; n++) if (spread(n) >= SMALLEST) blocks = n;
    cell = Math.min(LARGEST, Math.max(18, spread(blocks)));
    const perBlock = Math.ceil(grid.layers / blocks), step = cell + GAP;
    if (sorted) columns = Math.max(1, Math.floor(width / step));
    places = order.map((number, place) => {
      if (sorted) return { number, x: (place % columns) * step, y: 18 + Math.floor(place / columns) * (step + 12) };
      const layer = Math.floor(number / grid.heads), head = number % grid.heads;
      const block = Math.floor(layer / perBlock);
      return { number, x: LABEL + block * (LABEL + grid.heads * step) + head * step, y: 18 + (layer % perBlock) * step };
    });
    const bottom = Math.max(...places.map((place) => place.y)) + cell + 14;
    const right = Math.max(...places.map((place) => place.x)) + cell + 4;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = right * ratio; canvas.height = bottom * ratio;
    canvas.style.width = right + "px"; canvas.style.height = bottom + "px";
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif"; pen.fillStyle = ink; pen.textBaseline = "middle"; pen.textAlign = "center";
    const score = shown.values, most = score ? Math.max(1e-9, ...score.map(Math.abs)) : 1;
    for (const { number, x, y } of places) {
      pen.globalAlpha = score && Math.abs(score[number]) < shown.least * most ? 0.12 : 1;
      if (score) {
        const share = score[number] / most;
        pen.fillStyle = css(shown.signed ? signedRamp[Math.round(127.5 * (1 + share))] : ramp[Math.round(255 * Math.max(0, share))]);
        pen.fillRect(x, y, cell, cell);
      } else {
        pen.drawImage(sheet, ...spot(number), x, y, cell, cell);
      }
      pen.globalAlpha = 1;
      if (shown.out.includes(number)) cross(x, y);
      pen.strokeStyle = number === chosen() ? accent : dark ? "#454c54" : "#c9d1d9";
      pen.lineWidth = number === chosen() ? 3 : 1;
      pen.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
      pen.fillStyle = ink;
      if (sorted) pen.fillText(name(number, "."), x + cell / 2, y + cell + 7);
      else {
        if (number % grid.heads === 0) { pen.textAlign = "right"; pen.fillText(Math.floor(number / grid.heads), x - 6, y + cell / 2); pen.textAlign = "center"; }
        if (y === 18) pen.fillText(number % grid.heads, x + cell / 2, 8);
      }
    }
    explain(most);
    if (hovered !== null) mark(hovered);
    function cross(x, y) {
      pen.strokeStyle = accent; pen.lineWidth = 2; pen.beginPath();
      pen.moveTo(x + 3, y + 3); pen.lineTo(x + cell - 3, y + cell - 3);
      pen.moveTo(x + cell - 3, y + 3); pen.lineTo(x + 3, y + cell - 3); pen.stroke();
    }
    function mark(number) {
      const place = places.find((one) => one.number === number);
      pen.strokeStyle = ink; pen.lineWidth = 2; pen.strokeRect(place.x + 1, place.y + 1, cell - 2, cell - 2);
    }
    layout.cell = cell;
  }

  const spot = (number) => [(number % grid.heads) * grid.size, Math.floor(number / grid.heads) * grid.size, grid.size, grid.size];
  const chosen = () => shown.layer * grid.heads + shown.head;
  const name = (number, between = "H") => (between === "." ? "" : "L") + Math.floor(number / grid.heads) + between + (number % grid.heads);

  function show(number) {
    const ratio = window.devicePixelRatio || 1;
    preview.width = preview.height = PREVIEW * ratio;
    const pen = preview.getContext("2d");
    pen.imageSmoothingEnabled = grid.size < grid.tokens.length;
    pen.drawImage(sheet, ...spot(number), 0, 0, preview.width, preview.height);
    const scores = Object.entries(grid.scores).map(([what, values]) => what + " " + values[number].toFixed(2)).join(", ");
    const marks = (number === chosen() ? " (chosen)" : "") + (shown.out.includes(number) ? " (taken out)" : "");
    const value = shown.values ? "Shown: " + shown.values[number].toFixed(3) + unit() + ". " : "";
    said.textContent = name(number) + marks + ". " + value + strongest(number) + scores + (scores ? "." : "");
  }

  function strongest(number) {
    if (grid.size !== grid.tokens.length) return "Pooled to " + grid.size + " by " + grid.size + ". ";
    const last = grid.size - 1, picture = grid.pictures[number];
    let best = 0;
    for (let key = 1; key <= last; key++) if (picture[last * grid.size + key] > picture[last * grid.size + best]) best = key;
    const weight = (picture[last * grid.size + best] / 255) ** 2;
    return "The last token " + quoted(last) + " looks about " + (100 * weight).toFixed(0) + "% at " + quoted(best) + " [" + best + "]. ";
  }

  // Isolated, so that a token written from right to left leaves the sentence around it in order.
  function quoted(token) { return "‘\u2068" + grid.tokens[token] + "\u2069’"; }

  function unit() { return shown.unit ? " " + shown.unit : ""; }

  // What the colours of the grid mean, below it: the two ends of the scale.
  function explain(most) {
    scale.hidden = !shown.values;
    if (!shown.values) return;
    const stops = shown.signed ? (dark ? grid.dark_signed : grid.light_signed) : dark ? grid.dark : grid.light;
    scale.querySelector(".scale").style.background = "linear-gradient(to right, " + stops.join(", ") + ")";
    scale.querySelector(".low").textContent = shown.signed ? "−" + most.toFixed(2) : "0";
    scale.querySelector(".high").textContent = (shown.signed ? "+" : "") + most.toFixed(2) + unit();
  }

  function under(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const place = places.find((one) => x >= one.x && x < one.x + layout.cell + GAP && y >= one.y && y < one.y + layout.cell + GAP);
    return place ? place.number : null;
  }

  function hover(number) {
    if (number === hovered) return;
    hovered = number;
    layout();
    show(number === null ? chosen() : number);
  }

  function choose(number, shift) {
    const layer = Math.floor(number / grid.heads), head = number % grid.heads;
    if (!shift) shown = { ...shown, layer, head };
    hovered = null;
    layout(); show(number);
    setTriggerValue("picked", [layer, head, shift]);
  }

  function key(event) {
    const from = places.findIndex((one) => one.number === (hovered === null ? chosen() : hovered));
    const column = (a, b) => Math.abs(places[a].x - places[b].x) < 2;
    const steps = { ArrowLeft: from - 1, ArrowRight: from + 1 };
    if (event.key === "ArrowUp") { steps.ArrowUp = from - 1; while (steps.ArrowUp >= 0 && !column(steps.ArrowUp, from)) steps.ArrowUp--; }
    if (event.key === "ArrowDown") { steps.ArrowDown = from + 1; while (steps.ArrowDown < places.length && !column(steps.ArrowDown, from)) steps.ArrowDown++; }
    if (event.key in steps) { event.preventDefault(); const to = places[steps[event.key]]; if (to) hover(to.number); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); if (hovered !== null) choose(hovered, event.shiftKey); }
    if (event.key === "Escape") hover(null);
  }

  function selected(event) {
    shown = { ...shown, ...event.detail };
    layout(); show(hovered === null ? chosen() : hovered);
  }

  canvas.onmousemove = (event) => hover(under(event));
  canvas.onmouseleave = () => hover(null);
  canvas.onclick = (event) => { const number = under(event); if (number !== null) choose(number, event.shiftKey); };
  canvas.onkeydown = key;
  canvas.setAttribute("aria-label", "Attention patterns of " + grid.layers + " layers of " + grid.heads + " heads; arrow keys move, Enter chooses, shift and Enter takes a head out");
  window.addEventListener("probe-selection", selected);
  let drawn = root.clientWidth;
  const resized = new ResizeObserver(() => { if (root.clientWidth !== drawn) { drawn = root.clientWidth; layout(); } });
  resized.observe(root);
  if (window.probeSelection) shown = { ...shown, ...window.probeSelection };
  layout(); show(chosen());
  return () => { window.removeEventListener("probe-selection", selected); resized.disconnect(); };
}

function read(data) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const length = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const each = header.size * header.size, begin = 4 + length;
  const n = header.layers * header.heads;
  header.pictures = Array.from({ length: n }, (_, number) => bytes.subarray(begin + number * each, begin + (number + 1) * each));
  return header;
}

// All pictures on one sheet, as they stand by layer and head. Pixels are written four bytes at a time: a picture and its
// bytes one by one take 50 ms longer for 144 heads, and as much again to clear away.
function paint({ layers, heads, size, pictures }, ramp) {
  const canvas = document.createElement("canvas");
  canvas.width = heads * size; canvas.height = layers * size;
  const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer), pixel = (bytes) => new Uint32Array(new Uint8Array(bytes).buffer)[0];
  const inks = Uint32Array.from(ramp, (colour) => pixel([...colour, 255])), hidden = pixel([128, 128, 128, 26]);
  pictures.forEach((picture, number) => {
    const begin = Math.floor(number / heads) * size * canvas.width + (number % heads) * size;
    for (let row = 0; row < size; row++) for (let column = 0; column < size; column++)
      pixels[begin + row * canvas.width + column] = column > row ? hidden : inks[picture[row * size + column]];
  });
  pen.putImageData(image, 0, 0);
  return canvas;
}

function colours(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((place) => parseInt(stop.slice(place, place + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const along = (value / 255) * (parts.length - 1), low = Math.min(Math.floor(along), parts.length - 2);
    return parts[low].map((channel, which) => Math.round(channel + (parts[low + 1][which] - channel) * (along - low)));
  });
}

const css = (colour) => "rgb(" + colour.join(",") + ")";

function luminance(colour) {
  const hex = colour.trim();
  if (!hex.startsWith("#")) return 1;
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16) / 255);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
