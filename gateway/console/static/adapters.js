// Adapters of the models, and registering them.

import { bytes, checkbox, count, field, h, table } from "./dom.js";
import { stateBadge } from "./overview.js";
import { confirm } from "./secrets.js";

export function adapters(app) {
  const list = h("div");
  const form = registerForm(app, show);
  const node = h("div", {}, h("h2", {}, "Adapters"), list, form.node);

  async function change(adapter, fields, said) {
    await app.act(null, () => app.api.call("PATCH", pathOf(adapter), fields), said);
    await show();
  }

  async function remove(adapter) {
    if (!(await confirm(`Remove ${adapter.name}?`, "Requests that run on it end first.", "Remove"))) return;
    await app.act(null, () => app.api.call("DELETE", `${pathOf(adapter)}?drain=true`), `${adapter.name} is removed.`);
    await show();
  }

  function actions(adapter) {
    if (!app.may("training")) return "needs training";
    if (adapter.origin !== "registered") return "from the configuration";
    const button = (text, act) =>
      h("button", { type: "button", "aria-label": `${text} ${adapter.name}`, onclick: act }, text);
    const off = adapter.status === "disabled";
    return h("span", { class: "actions" },
      button(off ? "Load" : "Unload", () =>
        change(adapter, { enabled: off }, `${adapter.name} is ${off ? "switched on" : "switched off"}.`)),
      button(adapter.pinned ? "Unpin" : "Pin", () =>
        change(adapter, { pinned: !adapter.pinned }, `${adapter.name} is ${adapter.pinned ? "free" : "pinned"}.`)),
      button("Remove", () => remove(adapter)));
  }

  async function show() {
    form.node.hidden = !app.may("training");
    const answer = await app.ask(list, () => app.api.get("/v1/adapters"));
    if (!answer) return;
    list.replaceChildren(table("Adapters", [
      ["Adapter", (adapter) => adapter.id],
      ["State", (adapter) => h("span", {}, stateBadge(adapter.status), adapter.fault ? ` ${adapter.fault}` : "")],
      ["Running", (adapter) => count(adapter.running), { number: true }],
      ["Rank", (adapter) => count(adapter.rank), { number: true }],
      ["Size", (adapter) => bytes(adapter.size), { number: true }],
      ["Tenant", (adapter) => adapter.tenant || "everybody"],
      ["Action", actions],
    ], answer.data, "There is none."));
  }

  return { node, show };
}

const pathOf = (adapter) => `/v1/adapters/${encodeURIComponent(adapter.name)}`;

function registerForm(app, done) {
  const name = h("input", { required: true, maxlength: 64, autocomplete: "off", spellcheck: "false" });
  const source = h("input", { required: true, maxlength: 2048, autocomplete: "off", spellcheck: "false" });
  const model = h("input", { autocomplete: "off", spellcheck: "false" });
  const sha = h("input", { pattern: "[0-9a-f]{64}", autocomplete: "off", spellcheck: "false" });
  const pinned = checkbox("Pinned: it stays in the engine");
  const shared = checkbox("For all tenants (needs admin)");

  async function send(event) {
    event.preventDefault();
    const where = source.value.trim();
    const body = { name: name.value.trim(), pinned: pinned.box.checked, shared: shared.box.checked };
    body[/^(hub:|https:)/.test(where) ? "source" : "path"] = where;
    if (model.value.trim()) body.model = model.value.trim();
    if (sha.value.trim()) body.sha256 = sha.value.trim();
    const made = await app.act(`Registering ${body.name}…`, () => app.api.call("POST", "/v1/adapters", body),
      `${body.name} is registered.`);
    if (made) event.target.reset();
    await done();
  }

  const form = h("form", { class: "grid", onsubmit: send },
    field("Name", name, "What requests call it: letters, digits, _ and -."),
    field("Where it is", source, "A directory on the server, hub:organisation/name, or an https URL of a tar archive."),
    field("Model", model, "Empty: the first one."),
    field("SHA-256", sha, "Required for an https URL."),
    pinned.label, shared.label, h("button", { class: "primary" }, "Register"));
  return { node: h("details", { class: "panel" }, h("summary", {}, "Register an adapter"), form) };
}
