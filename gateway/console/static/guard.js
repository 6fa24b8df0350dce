// The guard: what it found, what followed, and what it is told to do.

import { badge, count, h, notice, table } from "./dom.js";

export function guard(app) {
  const counted = h("div");
  const policies = h("div");
  const node = h("div", {}, counted, policies);
  let there = null;

  function status(told) {
    if (!told.guard) {
      there = false;
      counted.replaceChildren(notice("This server has no guard. Its operator can configure one: guard.evaluators."));
      return;
    }
    if (!there) {
      there = true;
      show();
    }
    counted.replaceChildren(
      h("h2", {}, "Verdicts since the start"),
      table("Verdicts of the guard", [
        ["Risk", (row) => row.risk],
        ["Where", (row) => row.stage],
        ["Safe", (row) => count(row.safe), { number: true }],
        ["Flagged", (row) => count(row.flagged), { number: true }],
      ], verdictsOf(told.guard), "Nothing was judged yet."),
      h("h2", {}, "What followed"),
      table("Consequences", [
        ["Where", (row) => row.stage],
        ["Action", (row) => row.action],
        ["Count", (row) => count(row.count), { number: true }],
      ], told.guard.actions, "Nothing had to be stopped."));
  }

  async function show() {
    if (!there) return policies.replaceChildren();
    if (!app.may("admin")) return policies.replaceChildren(notice("The policies need a key with the scope admin."));
    const answer = await app.ask(policies, () => app.api.get("/v1/admin/guard"));
    if (!answer) return;
    policies.replaceChildren(
      h("h2", {}, "Evaluators"),
      table("Evaluators", [
        ["Name", (each) => each.name],
        ["Judges", (each) => each.risks.join(", ")],
        ["State", (each) => (each.available ? badge("asked", "good") : badge("resting", "bad"))],
      ], answer.evaluators, "There is none."),
      h("h2", {}, "Policy"), policyOf(answer.policy),
      ["models", "routes", "keys"].flatMap((kind) => Object.entries(answer[kind]).map(([name, policy]) =>
        h("details", { class: "panel" }, h("summary", {}, `For ${kind.slice(0, -1)} ${name}`), policyOf(policy)))));
  }

  return { node, show, status, needs: "read_only", title: "Guard" };
}

function verdictsOf(told) {
  const rows = new Map();
  for (const { risk, stage, outcome, count: number } of told.verdicts) {
    const at = JSON.stringify([risk, stage]);
    if (!rows.has(at)) rows.set(at, { risk, stage, safe: 0, flagged: 0 });
    rows.get(at)[outcome] += number;
  }
  return [...rows.values()];
}

const policyOf = (policy) => h("dl", { class: "facts" }, Object.entries(policy).map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, spelled(value)))));

function spelled(value) {
  if (value === null) return "default";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, each]) => `${name}: ${each}`).join(", ");
}
