// Signing in, choosing a section, asking for the live figures.

import { Api } from "./api.js";
import { byId, h, notice } from "./dom.js";
import { guard } from "./guard.js";
import { keys } from "./keys.js";
import { models } from "./models.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";
import { usage } from "./usage.js";

const SECTIONS = { overview, models, keys, usage, guard, playground };
const POLL = 2000;
const POLL_HIDDEN = 30000;
const POLL_MOST = 30000;
const SAID = 8000;
const STORED = "sluice-console-key";

class App {
  api = null;
  caller = null;
  #views = new Map();
  #timer = 0;
  #saying = 0;
  #failures = 0;
  #session = 0;
  #latest = null;

  may(scope) {
    const own = this.caller?.scopes || [];
    return own.includes(scope) || own.includes("admin");
  }

  // Said once, and gone before it is in the way.
  announce(text) {
    clearTimeout(this.#saying);
    byId("announcer").textContent = text;
    if (text) this.#saying = setTimeout(() => this.announce(""), SAID);
  }

  // Does something that changes the server; says that it is done, or why not. Returns the answer, or nothing.
  async act(before, doing, after) {
    if (before) this.announce(before);
    try {
      const answer = await doing();
      this.announce(after);
      this.#poll();
      return answer;
    } catch (error) {
      this.#explain(error);
      return null;
    }
  }

  // Reads something into ``place``; a failure is shown there.
  async ask(place, reading) {
    try {
      return await reading();
    } catch (error) {
      if (place) place.replaceChildren(notice(error.message));
      else this.#explain(error);
      return null;
    }
  }

  #explain(error) {
    this.announce(`It did not work. ${error.message}`);
  }

  // -- coming in and going out ------------------------------------------------------------------------------------

  async signIn(key, keep) {
    const api = new Api(key);
    try {
      this.#latest = await api.get("/v1/status");
      this.caller = this.#latest.caller;
    } catch (error) {
      if (error.status !== 403) throw error;
      this.caller = { id: "this key", tenant: "", scopes: [] }; // it works, but may not look at figures
      this.#latest = null;
    }
    this.api = api;
    if (keep) sessionStorage.setItem(STORED, key);
    this.#session += 1;
    byId("caller").textContent = this.caller.tenant ? `${this.caller.id} · ${this.caller.tenant}` : this.caller.id;
    this.#views = new Map(Object.entries(SECTIONS).map(([name, make]) => [name, this.#view(name, make(this))]));
    byId("views").replaceChildren(...[...this.#views.values()].map((view) => view.section));
    this.#signedIn(true);
    this.route();
    if (this.#latest) this.#tell();
    else byId("connection").textContent = "No live figures for this key";
    this.#later(POLL);
  }

  signOut(why = "") {
    this.#session += 1;
    clearTimeout(this.#timer);
    for (const view of this.#views.values()) view.leave?.();
    this.#views.clear();
    byId("views").replaceChildren();
    sessionStorage.removeItem(STORED);
    this.api = this.caller = this.#latest = null;
    byId("connection").textContent = "";
    this.#signedIn(false);
    byId("sign-in-error").textContent = why;
    byId("key").focus();
  }

  #signedIn(now) {
    byId("sign-in").hidden = now;
    byId("nav").hidden = byId("who").hidden = !now;
    if (!now) document.title = "Sign in · Sluice console";
  }

  // -- sections ---------------------------------------------------------------------------------------------------

  #view(name, made) {
    const title = h("h1", { id: `${name}-title`, tabindex: -1 }, made.title);
    const allowed = !made.needs || this.may(made.needs);
    const own = this.caller.scopes.join(", ") || "no scope that allows looking";
    const body = allowed ? made.node
      : notice(`This section needs a key with the scope ${made.needs}. Yours has: ${own}.`);
    const section = h("section", { class: `view ${name}`, "aria-labelledby": `${name}-title`, hidden: true }, title, body);
    return { ...made, allowed, section, heading: title };
  }

  route() {
    if (!this.api) return;
    const name = this.#views.has(location.hash.slice(1)) ? location.hash.slice(1) : "overview";
    for (const [each, view] of this.#views) view.section.hidden = each !== name;
    for (const link of byId("nav").querySelectorAll("a")) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const view = this.#views.get(name);
    document.title = `${view.title} · Sluice console`;
    byId("nav").querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
    this.announce("");
    view.heading.focus();
    if (view.allowed) view.show?.();
  }

  // -- live figures -----------------------------------------------------------------------------------------------

  #tell() {
    byId("connection").textContent = "Live";
    for (const view of this.#views.values()) if (view.allowed) view.status?.(this.#latest);
  }

  #later(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#poll(), milliseconds);
  }

  async #poll() {
    if (!this.api || !this.may("read_only")) return;
    clearTimeout(this.#timer);
    const session = this.#session;
    try {
      const told = await this.api.get("/v1/status");
      if (session !== this.#session) return;
      this.#latest = told;
      this.#failures = 0;
      this.#tell();
      this.#later(document.hidden ? POLL_HIDDEN : POLL);
    } catch (error) {
      if (session !== this.#session) return;
      if (error.status === 401) return this.signOut("The key does not work any more.");
      this.#failures += 1;
      const pause = Math.max((error.retryAfter || 0) * 1000, Math.min(POLL_MOST, POLL * 2 ** this.#failures));
      byId("connection").textContent = `Not live: trying again in ${Math.round(pause / 1000)} s`;
      this.#later(pause);
    }
  }

  awake() {
    if (!document.hidden) this.#poll();
  }
}

const app = new App();

async function submit(event) {
  event.preventDefault();
  const error = byId("sign-in-error");
  const button = event.target.querySelector("button");
  error.textContent = "";
  button.disabled = true;
  try {
    await app.signIn(byId("key").value.trim(), byId("keep").checked);
    byId("key").value = "";
  } catch (problem) {
    error.textContent = problem.message;
    byId("key").focus();
  } finally {
    button.disabled = false;
  }
}

byId("sign-in-form").addEventListener("submit", submit);
byId("sign-out").addEventListener("click", () => app.signOut());
window.addEventListener("hashchange", () => app.route());
document.addEventListener("visibilitychange", () => app.awake());

const kept = sessionStorage.getItem(STORED);
if (kept === null) app.signOut();
else app.signIn(kept, true).catch((problem) => app.signOut(problem.message));
