// Dialogs: a question before what cannot be undone, and a secret that is shown once.

import { byId, freshId, h } from "./dom.js";

// Opens a dialog and resolves to what it was closed with; its elements are gone afterwards, secrets included.
export function dialog(title, content, buttons) {
  const id = freshId("dialog");
  const node = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), content,
    h("div", { class: "actions" }, buttons.map(([text, value, kind]) =>
      h("button", { type: "button", class: kind, onclick: () => node.close(value) }, text))));
  byId("dialogs").append(node);
  const before = document.activeElement;
  return new Promise((resolve) => {
    node.addEventListener("close", () => {
      node.remove();
      if (before && before.isConnected) before.focus();
      resolve(node.returnValue);
    });
    node.showModal();
  });
}

export const confirm = async (title, text, yes) =>
  (await dialog(title, h("p", {}, text), [["Cancel", "", "quiet"], [yes, "yes", "danger"]])) === "yes";

export async function showSecret(key, name) {
  const secret = h("input", { readonly: true, value: key, class: "secret", "aria-label": "The key", spellcheck: "false",
    onfocus: () => secret.select() });
  const said = h("p", { role: "status", class: "hint" }, "");
  const copy = async () => {
    secret.focus();
    try {
      await navigator.clipboard.writeText(key);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "It is selected: copy it with the keyboard.";
    }
  };
  const content = h("div", {},
    h("p", {}, "This is the only time that the key is shown. Nobody can read it again, not even this server."),
    h("p", { class: "secret-row" }, secret, h("button", { type: "button", onclick: copy }, "Copy")), said);
  await dialog(`The key of ${name}`, content, [["I have stored it", "", "primary"]]);
  secret.value = "";
}
