// Shared code of all pages: requests, elements, keys, notices, dialogs.

/** Send a request and return the JSON of the response. Throws Error with the server's message. */
export async function api(path, body, headers = {}) {
  const options = body === undefined ? { headers } : {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Your earlier answers are stored; try again.");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(content.error?.message ?? `The server answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return content;
}

/** Create an element: element("button", { type: "button", onclick }, "text", child, ...). */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Show a short notice, which screen readers announce. */
let toastTimer;
export function toast(message, seconds = 2.5) {
  const node = byId("toast");
  node.textContent = message;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { node.textContent = ""; }, seconds * 1000);
}

/** Call handlers by key, unless a dialog is open, text is typed, or a modifier is pressed. */
export function bindKeys(handlers) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.target.matches("input, select, textarea")) return;
    if ((event.key === "Enter" || event.key === " ") && event.target.matches("button, summary")) {
      if (!event.target.matches("[data-answer]")) return; // the focused control has priority
    }
    const handler = handlers[event.shiftKey ? `Shift+${event.code}` : event.key] ?? handlers[event.key] ?? handlers[event.key.toLowerCase()];
    if (!handler) return;
    event.preventDefault();
    handler(event);
  });
}

/** Open a modal dialog and resolve when it is closed. */
export function openDialog(dialog) {
  return new Promise((resolve) => {
    dialog.addEventListener("close", resolve, { once: true });
    dialog.showModal();
  });
}

/** Run an action, and show its error. Further calls are ignored until it ends. */
export function exclusive(action) {
  let running = false;
  return async (...values) => {
    if (running) return;
    running = true;
    try {
      await action(...values);
    } catch (error) {
      toast(error.message, 6);
    } finally {
      running = false;
    }
  };
}
