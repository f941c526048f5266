// The annotation page: a looped clip, six labels.

import { api, bindKeys, byId, element, exclusive, openDialog, toast } from "/static/kit/kit.js";
import { Prefetch, Stage } from "/static/kit/stage.js";

const NUM_AHEAD = 5;
const FEED_TITLES = {
  mixed: "Mixed", random: "Random", uncertain: "Uncertain", likely: "Likely positive", disagreement: "Disagreement", cluster: "By cluster",
};

const prefetch = new Prefetch();
const stage = new Stage(byId("stage"), prefetch, () => {});
let overview;
let queue = [];
let chosen = new Set();
let restored = null; // labels of an undone answer
let shownAt = 0;

async function start() {
  overview = await api("/api/overview");
  byId("feed").append(...overview.feeds.map((feed) => element("option", { value: feed }, FEED_TITLES[feed])));
  byId("label").append(element("option", { value: "" }, "All in turn"), ...overview.labels.map(
    (label) => element("option", { value: label.name }, label.title),
  ));
  byId("labels").append(...overview.labels.map((label, index) => element(
    "button", { type: "button", class: "label", "aria-pressed": false, "data-label": label.name, "data-answer": label.name, onclick: () => toggle(index) },
    element("kbd", {}, String(index + 1)),
    element("span", {}, element("b", {}, label.title), element("span", { class: "definition" }, label.definition)),
  )));
  byId("tabs").append(...overview.labels.map((label, index) => element(
    "button", { type: "button", "aria-pressed": false, onclick: () => showDefinition(index) }, element("kbd", {}, String(index + 1)), ` ${label.title}`,
  )));
  if (!overview.consented) {
    const dialog = byId("welcome");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    byId("agree").addEventListener("click", async () => {
      try {
        overview = await api("/api/consent", {});
        dialog.close();
      } catch (error) {
        toast(error.message, 6);
      }
    });
    await openDialog(dialog);
  }
  await next();
}

async function next() {
  const query = new URLSearchParams({ count: NUM_AHEAD + 1, feed: byId("feed").value, label: feedLabel() });
  queue = await api(`/api/next?${query}`);
  count();
  if (!queue.length) {
    byId("work").hidden = true;
    byId("work").dataset.clip = "none";
    byId("message").hidden = false;
    byId("message").textContent = "There are no more clips in this feed. Thank you.";
    return;
  }
  chosen = new Set(restored ?? []);
  restored = null;
  draw();
  prefetch.keep(queue.map((task) => task.video));
  byId("work").hidden = false;
  byId("work").dataset.clip = "";
  try {
    await stage.show([queue[0].video], ["Clip"]);
    byId("message").hidden = true;
  } catch (error) {
    byId("message").hidden = false;
    byId("message").textContent = `${error.message} Press U to continue.`;
  }
  byId("work").dataset.clip = queue[0].clip;
  shownAt = performance.now();
}

const feedLabel = () => (byId("feed").value === "likely" ? byId("label").value : "");

function count() {
  byId("count").textContent = `${overview.done} of ${overview.total} clips`;
}

function draw() {
  for (const button of document.querySelectorAll("[data-label]")) {
    button.setAttribute("aria-pressed", String(chosen.has(button.dataset.label)));
  }
}

function toggle(index) {
  if (!queue.length) return;
  const { name } = overview.labels[index];
  if (!chosen.delete(name)) chosen.add(name);
  draw();
  if (byId("quick").checked && chosen.size) save();
}

const send = exclusive(async (labels, unsure) => {
  if (!queue.length) return;
  const seconds = (performance.now() - shownAt) / 1000;
  Object.assign(overview, await api("/api/annotations", { clip: queue[0].clip, labels, unsure, seconds }));
  await next();
});

function save() {
  if (!chosen.size) return toast("Choose a label, or press 0 if nothing is wrong.");
  send([...chosen], false);
}

const undo = exclusive(async () => {
  const result = await api("/api/undo", {});
  Object.assign(overview, { done: result.done });
  if (result.clip === null) return toast("There is nothing to undo.");
  restored = result.labels;
  await next();
  toast("The last answer was undone.");
});

function showDefinition(index) {
  const label = overview.labels[index];
  byId("definition-title").textContent = label.title;
  byId("definition-text").textContent = label.definition;
  [...byId("tabs").children].forEach((tab, other) => tab.setAttribute("aria-pressed", String(other === index)));
  byId("examples").replaceChildren(...label.examples.map((description, number) => {
    const video = element("video", { loop: true, playsinline: true, autoplay: true, "aria-label": description });
    video.muted = true;
    video.src = `/examples/${label.name}/${number}.mp4`;
    return element("figure", {}, video, element("figcaption", {}, description));
  }));
  if (!byId("definitions").open) openDialog(byId("definitions")).then(() => byId("examples").replaceChildren());
}

function changeSpeed() {
  byId("speed").firstChild.textContent = `Speed ${stage.nextSpeed()}× `;
}

byId("definitions").addEventListener("keydown", (event) => {
  const index = "123456".indexOf(event.key);
  if (event.key.length === 1 && index >= 0) showDefinition(index);
});
byId("feed").addEventListener("change", () => {
  byId("label-choice").hidden = byId("feed").value !== "likely";
  byId("feed").blur();
  next().catch((error) => toast(error.message, 6));
});
byId("label").addEventListener("change", () => {
  byId("label").blur();
  next().catch((error) => toast(error.message, 6));
});
byId("pause").addEventListener("click", () => stage.togglePause());
byId("back").addEventListener("click", () => stage.step(-1));
byId("forward").addEventListener("click", () => stage.step(1));
byId("speed").addEventListener("click", changeSpeed);
byId("none").addEventListener("click", () => send([], false));
byId("unsure").addEventListener("click", () => send([], true));
byId("save").addEventListener("click", save);
byId("undo").addEventListener("click", undo);
byId("help").addEventListener("click", () => showDefinition(0));
bindKeys({
  ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((key) => [String(key), () => toggle(key - 1)])),
  ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((key) => [`Shift+Digit${key}`, () => showDefinition(key - 1)])),
  0: () => send([], false),
  n: () => send([], false),
  u: () => send([], true),
  Enter: save,
  Backspace: undo,
  " ": () => stage.togglePause(),
  ",": () => stage.step(-1),
  ".": () => stage.step(1),
  s: changeSpeed,
  "?": () => showDefinition(0),
});
start().catch((error) => { byId("message").textContent = error.message; });
