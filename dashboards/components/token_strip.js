// A text as its tokens, each on a colour that says how much; a click chooses one, shift+click a second one. Arrows move.

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const dark = luminance(colour(getComputedStyle(strip).getPropertyValue("--st-background-color").trim() || "#ffffff")) < 0.2;
  const stops = (dark ? data.dark : data.light).map(colour);
  strip.style.setProperty("--picked", dark ? "#f0934e" : "#b34700");
  strip.setAttribute("aria-label", data.label);
  const focused = () => strip.getRootNode().activeElement;
  const had = strip.contains(focused());
  const chips = data.tokens.map((token, number) => {
    const chip = document.createElement("button"), place = data.first + number;
    const shade = between(stops, data.values[number]);
    chip.type = "button";
    chip.textContent = token;
    chip.title = data.said[number];
    chip.setAttribute("aria-label", data.said[number]);
    chip.setAttribute("aria-pressed", String(place === data.chosen));
    chip.dataset.second = String(place === data.second);
    chip.tabIndex = place === data.chosen ? 0 : -1;
    chip.style.background = "rgb(" + shade.join(",") + ")";
    chip.style.color = luminance(shade) > 0.35 ? "#111418" : "#ffffff";
    chip.onclick = (event) => setTriggerValue("picked", [place, event.shiftKey]);
    return chip;
  });
  strip.replaceChildren(...chips);
  const at = chips[Math.min(Math.max(0, data.chosen - data.first), chips.length - 1)];
  if (at) at.tabIndex = 0;
  if (had && at) at.focus();
  strip.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && chips[chips.indexOf(focused()) + step];
    if (next) { event.preventDefault(); next.focus(); }
  };
}

function between(stops, value) {
  const along = Math.min(1, Math.max(0, value)) * (stops.length - 1), low = Math.min(Math.floor(along), stops.length - 2);
  return stops[low].map((channel, which) => Math.round(channel + (stops[low + 1][which] - channel) * (along - low)));
}

function colour(hex) {
  return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16) || 0);
}

function luminance(channels) {
  const [red, green, blue] = channels.map((channel) => (channel / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
