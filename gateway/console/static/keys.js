// API keys: listed, made, given a new secret, revoked.

import { badge, checkbox, count, day, field, h, table } from "./dom.js";
import { confirm, dialog, showSecret } from "./secrets.js";

const LIMITS = [
  ["requests_per_minute", "Requests per minute", "req/min"],
  ["tokens_per_minute", "Tokens per minute", "tokens/min"],
  ["tokens_per_day", "Tokens per day", "tokens/day"],
  ["concurrent", "Requests at once", "at once"],
];
const SCOPES = ["inference", "read_only", "training", "admin"];

export function keys(app) {
  const list = h("div");
  const more = h("button", { type: "button", hidden: true, onclick: () => next() }, "Show more");
  const revoked = checkbox("Show revoked ones", { onchange: () => show() });
  const form = createForm(app, show);
  let found = [];

  async function next() {
    const query = new URLSearchParams({ limit: "50", include_revoked: String(revoked.box.checked) });
    if (found.length) query.set("after", found.at(-1).id);
    const answer = await app.ask(list, () => app.api.get(`/v1/admin/keys?${query}`));
    if (!answer) return;
    found = [...found, ...answer.data];
    more.hidden = !answer.has_more;
    list.replaceChildren(keyTable());
  }

  async function show() {
    found = [];
    await next();
  }

  async function revoke(key) {
    const sure = await confirm(`Revoke ${key.name}?`, "The key stops working at once, for good.", "Revoke");
    if (!sure) return;
    await app.act(null, () => app.api.call("DELETE", pathOf(key)), `${key.name} is revoked.`);
    await show();
  }

  async function rotate(key) {
    const overlap = h("input", { type: "number", min: 0, max: 2592000, value: 0, inputmode: "numeric" });
    const content = field("Seconds that the old secret goes on working", overlap);
    const answer = await dialog(`A new secret for ${key.name}`, content,
      [["Cancel", "", "quiet"], ["Rotate", "yes", "primary"]]);
    if (answer !== "yes") return;
    const made = await app.act(null,
      () => app.api.call("POST", `${pathOf(key)}/rotate`, { overlap_seconds: Number(overlap.value) }),
      `${key.name} has a new secret.`);
    if (made) await showSecret(made.key, made.name);
    await show();
  }

  function actions(key) {
    if (key.status === "revoked") return "–";
    const button = (text, act, kind) =>
      h("button", { type: "button", class: kind, "aria-label": `${text} ${key.name}`, onclick: () => act(key) }, text);
    return h("span", { class: "actions" }, button("Rotate", rotate), button("Revoke", revoke, "danger"));
  }

  const keyTable = () => table("API keys", [
    ["Name", (key) => h("span", {}, h("strong", {}, key.name), h("br"), h("code", {}, key.id))],
    ["Tenant", (key) => key.tenant],
    ["Status", (key) => badge(key.status, key.status === "active" ? "good" : "bad")],
    ["Scopes", (key) => key.scopes.join(", ")],
    ["May use", (key) => (key.models ? key.models.join(", ") : "all models")],
    ["Limits", (key) => limitsOf(key.quota)],
    ["Expires (UTC)", (key) => (key.expires_at ? day(key.expires_at) : "never")],
    ["Action", actions],
  ], found, "There is no key in the store.");

  const node = h("div", {}, form, revoked.label, list, more);
  return { node, show, needs: "admin", title: "Keys and limits" };
}

const pathOf = (key) => `/v1/admin/keys/${encodeURIComponent(key.id)}`;

function limitsOf(quota) {
  const set = LIMITS.filter(([name]) => quota[name] !== null);
  if (!set.length) return "the default";
  return h("ul", { class: "plain" }, set.map(([name, , unit]) => h("li", {}, `${count(quota[name])} ${unit}`)));
}

const words = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);

function createForm(app, done) {
  const name = h("input", { required: true, maxlength: 256, autocomplete: "off" });
  const tenant = h("input", { maxlength: 128, autocomplete: "off", spellcheck: "false" });
  const models = h("input", { autocomplete: "off", spellcheck: "false" });
  const days = h("input", { type: "number", min: 1, max: 36500, inputmode: "numeric" });
  const limits = LIMITS.map(([id, label]) => [id, label, h("input", { type: "number", min: 0, inputmode: "numeric" })]);
  const scopes = SCOPES.map((scope) => checkbox(scope, { value: scope, checked: scope !== "training" && scope !== "admin" }));

  async function send(event) {
    event.preventDefault();
    const body = { name: name.value.trim(), scopes: scopes.filter(({ box }) => box.checked).map(({ box }) => box.value) };
    if (tenant.value.trim()) body.tenant = tenant.value.trim();
    if (words(models.value).length) body.models = words(models.value);
    if (days.value) body.ttl_seconds = Number(days.value) * 86400;
    const quota = limits.filter(([, , input]) => input.value).map(([id, , input]) => [id, Number(input.value)]);
    if (quota.length) body.quota = Object.fromEntries(quota);
    const made = await app.act(null, () => app.api.call("POST", "/v1/admin/keys", body), "The key is made.");
    if (!made) return;
    event.target.reset();
    await showSecret(made.key, made.name);
    await done();
  }

  return h("details", { class: "panel" }, h("summary", {}, "Make a key"),
    h("form", { class: "grid", onsubmit: send },
      field("Name", name, "What people call it."),
      field("Tenant", tenant, "Who pays. Empty: yours."),
      field("Models", models, "Ids between commas. Empty: all."),
      field("Expires after days", days, "Empty: never."),
      limits.map(([, label, input]) => field(label, input, "Empty: the default.")),
      h("fieldset", {}, h("legend", {}, "Scopes"), scopes.map((scope) => scope.label)),
      h("button", { class: "primary" }, "Make the key")));
}
