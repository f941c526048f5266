// Shared code of the administration pages: key, tables, refresh.

import { api, byId, element } from "./kit.js";

const REFRESH = 10_000;

/** Load a summary again and again, and draw it. Ask for the key if the server needs one. */
export function adminPage(path, draw) {
  const load = async () => {
    const key = sessionStorage.getItem("key");
    try {
      draw(await api(path, undefined, key ? { authorization: `Bearer ${key}` } : {}));
      byId("message").textContent = "";
      byId("login").hidden = true;
    } catch (error) {
      byId("message").textContent = error.message;
      byId("login").hidden = error.status !== 401;
    }
  };
  byId("login").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", byId("key").value);
    load();
  });
  load();
  setInterval(load, REFRESH);
}

export const percent = (value) => (value == null ? "–" : `${Math.round(100 * value)} %`);

/** Return a table; columns from firstNumber on are numbers. */
export function table(head, rows, firstNumber) {
  const kind = (column) => (column >= firstNumber ? "number" : "");
  const cells = (tag, row, attributes = {}) => row.map(
    (cell, column) => element(tag, { class: kind(column), ...attributes }, String(cell)),
  );
  return element(
    "table", {}, element("thead", {}, element("tr", {}, ...cells("th", head, { scope: "col" }))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row)))),
  );
}
