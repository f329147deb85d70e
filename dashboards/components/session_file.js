// A session as a file: what the URL holds, saved and opened in the browser alone; nothing is sent to the server but what a
// link would send, and that is checked there as a link's.

const LARGEST = 1e6, LONGEST = 60000;  // bytes of a file; characters of an address that the server reads

export default function ({ data, parentElement }) {
  const said = parentElement.querySelector("p");
  parentElement.querySelector("button").onclick = () => {
    const asked = new URLSearchParams(window.location.search), parameters = {};
    for (const name of new Set(asked.keys())) parameters[name] = asked.getAll(name);
    const text = JSON.stringify({ format: data.format, page: data.page, parameters }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "probe-session.json";
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const input = parentElement.querySelector("input");
  input.onchange = async () => {
    const file = input.files[0];
    if (!file) return;
    const found = file.size > LARGEST ? "it is larger than a megabyte" : read(await file.text(), data);
    input.value = "";
    if (typeof found === "string") { said.textContent = "Not opened: " + found + "."; return; }
    window.location.assign(found.url);
  };
}

function read(text, { format, pages }) {
  let found;
  try { found = JSON.parse(text); } catch { return "it is not JSON"; }
  if (!found || found.format !== format) return "it is no session of this dashboard (" + format + ")";
  const at = pages.indexOf(found.page);
  if (at < 0) return "its page is none of " + pages.join(", ");
  const asked = new URLSearchParams();
  for (const [name, values] of Object.entries(found.parameters || {})) {
    if (!Array.isArray(values) || !values.every((value) => typeof value === "string")) return "“" + name + "” is no list of texts";
    for (const value of values) asked.append(name, value);
  }
  const url = (at ? "/" + found.page : "/") + "?" + asked;
  return url.length > LONGEST ? "its texts are too long, " + url.length + " characters where " + LONGEST + " fit" : { url };
}
