// Pace, agreement and accuracy of annotators, for the administrator.

import { byId, element } from "/static/kit/kit.js";
import { adminPage, percent, table } from "/static/kit/admin.js";

const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
const fixed = (value, digits) => (value == null ? "–" : value.toFixed(digits));

adminPage("/api/admin/summary", (summary) => {
  const agreement = summary.agreement.map((row) => [
    row.title, fixed(row.value, 2), row.interval ? `${fixed(row.interval[0], 2)} to ${fixed(row.interval[1], 2)}` : "–",
  ]);
  const annotators = summary.annotators.map((row) => [
    row.name, row.num_clips, row.num_unsure, row.num_undone, fixed(row.clips_per_minute, 1), percent(row.gold),
    fixed(mean(Object.values(row.sensitivity)), 2), fixed(mean(Object.values(row.specificity)), 2),
  ]);
  byId("content").replaceChildren(
    element("p", {}, `${summary.num_clips} of ${summary.total} clips are annotated, ${summary.num_shared} by two or more people.`),
    element("h2", {}, "Agreement (Krippendorff's alpha)"),
    table(["Label", "Alpha", "95 % interval"], agreement, 1),
    element("h2", {}, "Annotators"),
    table(["Annotator", "Clips", "Unsure", "Undone", "Clips per minute", "Gold", "Sensitivity", "Specificity"], annotators, 1),
    element("p", { class: "muted" }, "Sensitivity and specificity are estimates from the shared clips (Dawid and Skene), means over labels."),
  );
});
