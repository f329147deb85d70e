// Saves what the URL holds as a file: the page, and every parameter with all its values.

export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  button.onclick = () => {
    const asked = new URLSearchParams(window.location.search), parameters = {};
    for (const name of new Set(asked.keys())) parameters[name] = asked.getAll(name);
    const text = JSON.stringify({ format: data.format, page: data.page, parameters }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "probe-session.json";
    link.click();
    URL.revokeObjectURL(link.href);
  };
}
