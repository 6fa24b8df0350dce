// What the process does now.

import { sparkline } from "./charts.js";
import { badge, count, duration, h, percent, seconds, table } from "./dom.js";

const rate = (value) => (value >= 10 ? String(Math.round(value)) : value.toFixed(1));

function card(title, name, format) {
  const value = h("p", { class: "value" }, "–");
  const detail = h("p", { class: "detail" }, " ");
  const chart = sparkline(name, format);
  return { node: h("div", { class: "card" }, h("h2", {}, title), value, detail, chart.node), value, detail, chart };
}

export function overview(app) {
  const tokens = card("Throughput", "Tokens per second", rate);
  const ttft = card("Time to first token", "Time to first token", seconds);
  const queue = card("Queue", "Requests queued", count);
  const running = card("Running", "Sequences running", count);
  const kv = card("KV cache", "KV cache in use", percent);
  const requests = h("div", { class: "card" });
  const models = h("div");
  const process = h("dl", { class: "facts" });
  const node = h("div", {},
    h("div", { class: "cards" }, [tokens, ttft, queue, running, kv].map((each) => each.node), requests),
    h("h2", {}, "Models"), models, h("h2", {}, "Process"), process);

  function status(told) {
    const { load, history } = told;
    tokens.value.textContent = `${rate(load.tokens_per_second)} tokens/s`;
    tokens.detail.textContent = `in flight: ${count(load.in_flight)}`;
    tokens.chart.draw(history.tokens_per_second, 1);
    ttft.value.textContent = seconds(told.ttft.p50);
    ttft.detail.textContent = `95 %: ${seconds(told.ttft.p95)}, streams: ${count(told.ttft.count)}`;
    ttft.chart.draw(history.ttft, 0.001);
    queue.value.textContent = `${count(load.queued)} queued`;
    queue.detail.textContent = `waited ${seconds(told.queue_delay.p50)}, 95 %: ${seconds(told.queue_delay.p95)}`;
    queue.chart.draw(history.queued, 1);
    running.value.textContent = load.bound ? `${count(load.running)} of ${count(load.bound)}` : count(load.running);
    running.detail.textContent = `${count(load.waiting)} wait inside the engine`;
    running.chart.draw(history.running, 1);
    kv.value.textContent = percent(load.kv_usage);
    kv.detail.textContent = "of the fullest engine";
    kv.chart.draw(history.kv_usage, 1);
    requests.replaceChildren(...requestsOf(told));
    models.replaceChildren(modelTable(told.models));
    process.replaceChildren(...factsOf(told.process));
  }

  return { node, status, needs: "read_only", title: "Overview" };
}

function requestsOf(told) {
  const total = Object.values(told.requests).reduce((sum, each) => sum + each, 0);
  const rows = [...Object.entries(told.requests), ...Object.entries(told.refusals)];
  return [
    h("h2", {}, "Requests, last minute"),
    h("p", { class: "value" }, count(total)),
    h("ul", { class: "counts" }, rows.map(([name, number]) => h("li", {}, h("span", {}, name), count(number)))),
  ];
}

export const stateBadge = (state) =>
  badge(state, state === "ready" || state === "resident" ? "good" : /failed|broken/.test(state) ? "bad" : "");

export function kvMeter(model) {
  const text = percent(model.kv_usage);
  return h("span", { class: "meter" },
    h("meter", { min: 0, max: 1, high: 0.9, value: model.kv_usage, "aria-label": `KV cache of ${model.id}` }, text),
    " ", text);
}

const modelTable = (models) => table("Models", [
  ["Model", (model) => model.id],
  ["State", (model) => stateBadge(model.state)],
  ["Running", (model) => count(model.running), { number: true }],
  ["Waiting", (model) => count(model.waiting), { number: true }],
  ["KV cache", kvMeter],
], models, "This key may use no model.");

function factsOf(process) {
  const ready = process.not_ready ? `not ready: ${process.not_ready}` : process.phase;
  return [
    ["State", ready],
    ["Degraded", process.degraded.join(", ") || "nothing"],
    ["Up for", duration(process.uptime_seconds)],
    ["Connections", count(process.connections)],
    ["Event loop lag, worst of 30 s", seconds(process.loop_lag_seconds)],
    ["Sluice", process.version],
    ["vLLM", process.engine],
  ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
}
