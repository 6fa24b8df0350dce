// What was used: by tenant for administrators, one's own for everybody else.

import { count, field, h, select, table } from "./dom.js";

const DAY = 86400000;

export function usage(app) {
  const list = h("div");
  const everybody = () => app.may("admin");
  const by = select([["tenant", "Tenant"], ["model", "Model"], ["adapter", "Adapter"], ["key", "Key"], ["day", "Day"],
    ["outcome", "Outcome"]], { onchange: () => show() });
  const period = select([["0", "Today"], ["6", "7 days"], ["29", "30 days"], ["", "All"]], { onchange: () => show() });
  period.value = "6";
  const whose = h("p", { class: "hint" });
  const node = h("div", {}, h("div", { class: "filters" }, field("By", by), field("Period (UTC)", period)), whose, list);

  function limitChoices() {
    for (const option of by.options) option.hidden = option.disabled = !everybody() && /tenant|key/.test(option.value);
    if (by.selectedOptions[0]?.disabled) by.value = "model";
    whose.textContent = everybody() ? "Everybody's." : "Your own: a key with the scope admin sees everybody's.";
  }

  async function show() {
    limitChoices();
    const query = new URLSearchParams({ group_by: by.value, limit: "200" });
    if (period.value) query.set("from", new Date(Date.now() - Number(period.value) * DAY).toISOString().slice(0, 10));
    const path = everybody() ? "/v1/admin/usage" : "/v1/usage";
    const answer = await app.ask(list, () => app.api.get(`${path}?${query}`));
    if (!answer) return;
    const group = by.value;
    list.replaceChildren(table("Usage", [
      [by.selectedOptions[0].textContent, (row) => row[group] ?? "(none)"],
      ["Requests", (row) => count(row.requests), { number: true }],
      ["Prompt tokens", (row) => count(row.prompt_tokens), { number: true }],
      ["of them cached", (row) => count(row.cached_tokens), { number: true }],
      ["Completion tokens", (row) => count(row.completion_tokens), { number: true }],
      ["Cost", (row) => row.cost ?? "no price", { number: true }],
    ], answer.data, "Nothing was used in this time."),
    answer.has_more ? h("p", { class: "hint" }, "There is more: ask the API.") : "");
  }

  return { node, show, needs: "read_only", title: "Usage" };
}
