// Models and adapters: what is in memory, into it and out of it.

import { adapters } from "./adapters.js";
import { bytes, count, h, table } from "./dom.js";
import { kvMeter, stateBadge } from "./overview.js";
import { confirm } from "./secrets.js";

export function models(app) {
  const list = h("div");
  const below = adapters(app);
  let shown = "";

  async function load(model) {
    await app.act(`Loading ${model.id}…`, () => app.api.call("POST", `/v1/models/${encodeURIComponent(model.id)}/load`),
      `${model.id} is loaded.`);
  }

  async function unload(model) {
    const sure = await confirm(`Unload ${model.id}?`,
      "Its requests may end; new ones are refused until it is loaded again.", "Unload");
    if (!sure) return;
    await app.act(`Unloading ${model.id}…`, () => app.api.call("DELETE", `/v1/models/${encodeURIComponent(model.id)}`),
      `${model.id} is out of memory.`);
  }

  function actions(model) {
    if (!app.may("admin")) return "needs admin";
    const button = (text, act) =>
      h("button", { type: "button", "aria-label": `${text} ${model.id}`, onclick: () => act(model) }, text);
    if (model.state === "ready" || model.state === "sleeping") return button("Unload", unload);
    return ["cold", "unloaded", "failed"].includes(model.state) ? button("Load", load) : "…";
  }

  function status(told) {
    // Drawn again only if something changed, so that a focused button is not taken away each second.
    const now = JSON.stringify(told.models);
    if (now === shown || (list.contains(document.activeElement) && sameButtons(shown, told.models))) return;
    shown = now;
    list.replaceChildren(table("Models", [
      ["Model", (model) => model.id],
      ["Kind", (model) => (model.pinned ? `${model.kind}, pinned` : model.kind)],
      ["State", (model) => stateBadge(model.state)],
      ["Memory", (model) => bytes(model.memory_bytes), { number: true }],
      ["Running", (model) => count(model.running), { number: true }],
      ["KV cache", kvMeter],
      ["Action", actions],
    ], told.models, "This key may use no model."));
  }

  const node = h("div", {}, list, below.node);
  return { node, status, show: below.show, needs: "read_only", title: "Models and adapters" };
}

function sameButtons(before, models) {
  const states = (each) => each.map((model) => `${model.id} ${model.state}`).join();
  return before !== "" && states(JSON.parse(before)) === states(models);
}
