// The rating page: one video with four criteria and a total, or two videos with questions.

import { api, bindKeys, byId, element, exclusive, openDialog, toast } from "/static/kit/kit.js";
import { Prefetch, Stage } from "/static/kit/stage.js";

const BREAK_AFTER = 20 * 60 * 1000;
const NUM_AHEAD = 5;
const CHOICE_TITLES = { left: "Left", right: "Right", same: "Same", both_bad: "Both bad" };
const OPPOSITE = { left: "right", right: "left" };

const prefetch = new Prefetch();
const stage = new Stage(byId("stage"), prefetch, unlock);
let study;
let queue = [];
let answer = {};
let current = 0; // index of the criterion or question that digits answer
let flipped = false;
let shownAt = 0;
let lastBreak = Date.now();

const isPair = () => study.mode === "pair";
const names = () => study.criteria.map((criterion) => criterion.name);

async function start() {
  study = await api("/api/study");
  document.title = study.title;
  byId("title").textContent = study.title;
  byId("rubric-content").replaceChildren(rubric());
  if (study.closed) return finish("The study has ended. Thank you.");
  if (!study.consented) {
    byId("consent-text").textContent = study.consent;
    byId("introduction").replaceChildren(...introduction());
    const dialog = byId("consent");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    byId("agree").addEventListener("click", async () => {
      try {
        study = await api("/api/consent", {});
        dialog.close();
      } catch (error) {
        toast(error.message, 6);
      }
    });
    await openDialog(dialog);
  }
  await next();
}

function introduction() {
  const keys = isPair()
    ? "Answer each question with the keys 1 (left), 2 (right), 3 (same) and 4 (both bad)."
    : "Choose a level of each criterion with the keys 1 to 3, then a total from 0 to 5, and press Enter.";
  return [
    element("p", {}, "Judge what you see. Answers are locked until you have watched each video to its end once. ", keys),
    element("p", {}, "Backspace undoes the last answer, and ? shows the criteria. The first items are training."),
  ];
}

function rubric() {
  const rows = study.criteria.filter((criterion) => criterion.levels.length).map((criterion) => element(
    "tr", {}, element("th", { scope: "row" }, criterion.title), ...criterion.levels.map((text) => element("td", {}, text)),
  ));
  const head = element("tr", {}, element("th", { scope: "col" }, "Criterion"), ...["0", "0.5", "1"].map(
    (level) => element("th", { scope: "col" }, level),
  ));
  const total = isPair() ? null : element(
    "p", {}, `The total from 0 to 5 is a separate score, not a sum. It is at most ${study.max_total} if instruction following is 0.`,
  );
  return element("div", {}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)), total);
}

async function next() {
  queue = await api(`/api/tasks?count=${NUM_AHEAD + 1}`);
  byId("locked").textContent = "Answers are locked until the video has been played once.";
  progress(study);
  if (!queue.length) return finish("All items are answered. Thank you.");
  const task = queue[0];
  answer = {};
  current = 0;
  flipped = false;
  byId("message").textContent = "Loading the video…";
  byId("message").hidden = false;
  await stage.show(task.videos, isPair() ? ["Left", "Right"] : ["Video"]);
  prefetch.keep(queue.flatMap((each) => each.videos));
  byId("message").hidden = true;
  byId("work").hidden = false;
  byId("layout").className = isPair() ? "layout" : "layout single";
  byId("swap").hidden = !isPair();
  byId("prompt").textContent = task.prompt;
  byId("training").hidden = !task.training;
  shownAt = performance.now();
  draw();
}

function finish(text) {
  byId("work").hidden = true;
  byId("message").hidden = false;
  byId("message").textContent = text;
}

function progress(state) {
  byId("progress").max = Math.max(state.total, 1);
  byId("progress").value = state.done;
  byId("count").textContent = `${state.done} of ${state.total}`;
}

function unlock() {
  byId("locked").textContent = "";
  draw();
}

function draw() {
  const focused = document.activeElement?.dataset?.answer;
  byId("form").replaceChildren(...(isPair() ? pairForm() : singleForm()));
  if (focused) document.querySelector(`[data-answer="${focused}"]`)?.focus();
}

function choiceButton(name, value, chosen, disabled, ...content) {
  return element("button", {
    type: "button", "aria-pressed": chosen, disabled, "data-answer": `${name} ${value}`, onclick: () => choose(name, value),
  }, ...content);
}

function singleForm() {
  const fields = study.criteria.map((criterion, index) => element(
    "fieldset", { class: index === current ? "current" : "" },
    element("legend", {}, criterion.title),
    element("div", { class: "levels" }, ...study.levels.map((level, key) => choiceButton(
      criterion.name, level, answer[criterion.name] === level, !stage.seen,
      element("b", {}, element("kbd", {}, String(key + 1)), ` ${level}`), criterion.levels[key],
    ))),
  ));
  const capped = answer.instruction === 0;
  const total = element(
    "fieldset", { class: current === study.criteria.length ? "current" : "" },
    element("legend", {}, capped ? `Total (at most ${study.max_total}: the instruction is not followed)` : "Total"),
    element("div", { class: "totals" }, ...study.totals.map((value) => choiceButton(
      "total", value, answer.total === value, !stage.seen || (capped && value > study.max_total), String(value),
    ))),
  );
  const submit = element("button", {
    type: "button", class: "primary submit", disabled: !stage.seen || !complete(), onclick: send,
  }, "Submit ", element("kbd", {}, "Enter"));
  return [...fields, total, submit];
}

function pairForm() {
  const fields = study.criteria.map((criterion, index) => element(
    "div", { class: index === current ? "question current" : "question", role: "group", "aria-labelledby": `q-${criterion.name}` },
    element("span", { id: `q-${criterion.name}` }, criterion.question),
    element("div", { class: "choices" }, ...study.choices.map((choice, key) => choiceButton(
      criterion.name, choice, displayed(answer[criterion.name]) === choice, !stage.seen,
      element("kbd", {}, String(key + 1)), ` ${CHOICE_TITLES[choice]}`,
    ))),
  ));
  const submit = element("button", {
    type: "button", class: "primary submit", disabled: !stage.seen || !complete(), onclick: send,
  }, "Submit ", element("kbd", {}, "Enter"));
  return [element("div", { class: "questions" }, ...fields, submit)];
}

const displayed = (choice) => (flipped ? OPPOSITE[choice] ?? choice : choice);
const complete = () => [...names(), ...(isPair() ? [] : ["total"])].every((name) => answer[name] !== undefined);

function choose(name, value) {
  if (!stage.seen) return;
  answer[name] = isPair() ? displayed(value) : value;
  if (answer.instruction === 0 && answer.total > study.max_total) delete answer.total;
  const order = [...names(), "total"];
  current = Math.min(order.indexOf(name) + 1, isPair() ? names().length - 1 : names().length);
  draw();
}

function digit(key) {
  if (!stage.seen) return toast("Watch the video to its end first.");
  if (isPair()) {
    if (key >= 1 && key <= 4) choose(names()[current], study.choices[key - 1]);
  } else if (current < names().length) {
    if (key >= 1 && key <= 3) choose(names()[current], study.levels[key - 1]);
  } else if (key <= (answer.instruction === 0 ? study.max_total : 5)) {
    choose("total", key);
  }
}

const send = exclusive(async () => {
  if (!stage.seen || !complete() || !queue.length) return;
  const seconds = (performance.now() - shownAt) / 1000;
  const result = await api("/api/votes", { position: queue[0].position, answer, seconds });
  Object.assign(study, result);
  if (result.training) await showFeedback(result.training);
  if (Date.now() - lastBreak > BREAK_AFTER) {
    await openDialog(byId("break"));
    lastBreak = Date.now();
  }
  await next();
});

const undo = exclusive(async () => {
  Object.assign(study, await api("/api/undo", {}));
  await next();
  toast("The last answer was undone.");
});

async function showFeedback(training) {
  byId("feedback-text").textContent = training.explanation;
  const show = (value) => CHOICE_TITLES[value] ?? value;
  const limit = (name, value) => (name === "total" ? `at most ${value}` : show(value));
  const rows = Object.entries(training.expected).map(([name, value]) => element(
    "tr", {}, element("th", { scope: "row" }, study.criteria.find((c) => c.name === name)?.title ?? "Total"),
    element("td", {}, show(answer[name])), element("td", {}, limit(name, value)),
  ));
  const head = element("tr", {}, ...["Question", "You", "Expected"].map((text) => element("th", { scope: "col" }, text)));
  byId("feedback-table").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  await openDialog(byId("feedback"));
}

function swap() {
  if (!isPair()) return;
  flipped = !flipped;
  const figures = [...byId("stage").children].reverse();
  figures.forEach((figure, index) => { figure.querySelector("figcaption").textContent = ["Left", "Right"][index]; });
  byId("stage").replaceChildren(...figures);
  stage.replay();
  draw();
}

function changeSpeed() {
  byId("speed").firstChild.textContent = `Speed ${stage.nextSpeed()}× `;
}

byId("replay").addEventListener("click", () => stage.replay());
byId("back").addEventListener("click", () => stage.step(-1));
byId("forward").addEventListener("click", () => stage.step(1));
byId("speed").addEventListener("click", changeSpeed);
byId("swap").addEventListener("click", swap);
byId("undo").addEventListener("click", undo);
byId("help").addEventListener("click", () => openDialog(byId("rubric")));
bindKeys({
  ...Object.fromEntries([0, 1, 2, 3, 4, 5].map((key) => [String(key), () => digit(key)])),
  Enter: send,
  Backspace: undo,
  " ": () => stage.replay(),
  ",": () => stage.step(-1),
  ".": () => stage.step(1),
  s: changeSpeed,
  x: swap,
  "?": () => openDialog(byId("rubric")),
  ArrowUp: () => { current = Math.max(0, current - 1); draw(); },
  ArrowDown: () => { current = Math.min(isPair() ? names().length - 1 : names().length, current + 1); draw(); },
});
start().catch((error) => finish(error.message));
