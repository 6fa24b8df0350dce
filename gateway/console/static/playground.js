// A chat with a model or an adapter, token by token. Stop closes the connection, which ends the generation.

import { count, field, h, notice, seconds, select } from "./dom.js";

export function playground(app) {
  const model = select([], { required: true });
  const typed = h("input", { autocomplete: "off", spellcheck: "false", "aria-label": "Model, by name", hidden: true });
  const temperature = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0.7, inputmode: "decimal" });
  const tokens = h("input", { type: "number", min: 1, max: 1000000, value: 256, inputmode: "numeric" });
  const system = h("textarea", { rows: 2 });
  const message = h("textarea", { rows: 3, required: true, onkeydown: hurry });
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
  const send = h("button", { class: "primary" }, "Send");
  const stop = h("button", { type: "button", class: "danger", disabled: true, onclick: () => halt?.abort() }, "Stop");
  const clear = h("button", { type: "button", class: "quiet", onclick: forget }, "Clear");
  const form = h("form", { class: "chat", onsubmit: ask },
    h("div", { class: "filters" }, field("Model", h("span", { class: "stack" }, model, typed)),
      field("Temperature", temperature), field("Most tokens", tokens)),
    h("details", {}, h("summary", {}, "System message"), field("System message", system)),
    log, field("Message", message, "Ctrl and Enter sends it."),
    h("div", { class: "actions" }, send, stop, clear));
  let turns = [];
  let halt = null;

  function hurry(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  }

  function forget() {
    halt?.abort();
    turns = [];
    log.replaceChildren();
    message.focus();
  }

  async function show() {
    const label = form.querySelector("label");
    typed.hidden = app.may("read_only");
    model.hidden = !typed.hidden;
    model.required = typed.hidden;
    (typed.hidden ? model : typed).id = label.htmlFor;
    (typed.hidden ? typed : model).removeAttribute("id");
    if (!typed.hidden) return;
    const before = model.value;
    const answer = await app.ask(null, () => app.api.get("/v1/models"));
    if (!answer) return;
    const able = answer.data.filter((each) => each.kind === "generate");
    model.replaceChildren(...able.map((each) => h("option", { value: each.id }, each.id)));
    if (able.some((each) => each.id === before)) model.value = before;
  }

  function entry(who, text) {
    const body = h("p", { class: "said" }, text);
    log.append(h("div", { class: `turn ${who}` }, h("h3", {}, who === "user" ? "You" : chosen()), body));
    log.scrollTop = log.scrollHeight;
    return body;
  }

  const chosen = () => (typed.hidden ? model.value : typed.value.trim());

  async function ask(event) {
    event.preventDefault();
    const text = message.value.trim();
    if (halt || !text) return;
    const lead = system.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
    const body = {
      model: chosen(), messages: [...lead, ...turns, { role: "user", content: text }], stream: true,
      stream_options: { include_usage: true }, temperature: Number(temperature.value), max_tokens: Number(tokens.value),
    };
    entry("user", text);
    message.value = "";
    const said = entry("assistant", "");
    const foot = h("p", { class: "hint" }, "waiting for the first token…");
    said.after(foot);
    turns.push({ role: "user", content: text });
    halt = new AbortController();
    working(true);
    foot.textContent = await listen(body, said, foot);
    if (said.textContent) turns.push({ role: "assistant", content: said.textContent });
    else turns.pop();
    halt = null;
    working(false);
    app.announce(`The answer has ended: ${foot.textContent}`);
  }

  function working(now) {
    send.disabled = now;
    stop.disabled = !now;
    log.setAttribute("aria-busy", String(now));
    if (!now) message.focus();
  }

  // Fills ``said`` and returns how it ended, in words.
  async function listen(body, said, foot) {
    const text = said.appendChild(document.createTextNode(""));
    const began = performance.now();
    let first = null;
    let reason = "";
    let used = null;
    const past = (moment) => (moment - began) / 1000;
    try {
      for await (const event of app.api.stream("/v1/chat/completions", body, halt.signal)) {
        const choice = event.choices[0];
        const gained = choice && ((choice.delta.reasoning_content || "") + (choice.delta.content || ""));
        if (gained) {
          if (first === null) {
            first = performance.now();
            foot.textContent = `answering, first token after ${seconds(past(first))}`;
          }
          const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
          text.appendData(gained);
          if (below) log.scrollTop = log.scrollHeight;
        }
        reason = choice?.finish_reason || reason;
        used = event.usage || used;
      }
    } catch (error) {
      if (error.name === "AbortError") return `stopped after ${seconds(past(performance.now()))}`;
      said.after(notice(error.message));
      return `error: ${error.code || error.status}`;
    }
    const pace = used && first ? used.completion_tokens / Math.max(0.001, (performance.now() - first) / 1000) : 0;
    return [`ended by ${reason}`, used && `${count(used.prompt_tokens)} + ${count(used.completion_tokens)} tokens`,
      first && `first after ${seconds(past(first))}`, pace && `${pace.toFixed(1)} tokens/s`].filter(Boolean).join(", ");
  }

  return { node: form, show, leave: forget, needs: null, title: "Playground" };
}
