// A served page: asks its server for changes, and draws them.

const LIVE = document.body.dataset.live === "yes";
const EVERY = 3000; // ms between two requests

async function ask(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// tell: what to do with the runs that changed, and with new tables.
async function follow(tell) {
  const host = document.getElementById("live-host");
  const when = make("p", { class: "when", "aria-live": "polite" });
  const lines = make("ul");
  host.replaceChildren(when, lines);
  let [looks, version] = [0, null];
  for (;;) {
    try {
      if (!document.hidden) {
        const state = await ask(`state?since=${looks}`);
        if (state.looks < looks) looks = 0; // another server
        else looks = state.looks;
        const shown = state.lines.map((line) => make("li", {}, line));
        lines.replaceChildren(...shown);
        tell.changed(state.runs);
        if (version !== null && version !== state.version) tell.tables(await ask("core"));
        version = state.version;
        when.textContent = `As of ${new Date().toLocaleTimeString()}; kept current while the server runs.`;
        when.className = "when";
      }
    } catch {
      when.textContent = "The server does not answer: this page shows the last known state.";
      when.className = "when warn";
    }
    await new Promise((go) => setTimeout(go, EVERY));
  }
}
