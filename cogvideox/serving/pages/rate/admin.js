// Progress and statistics of raters, for the administrator, without models.

import { byId, element } from "/static/kit/kit.js";
import { adminPage, percent, table } from "/static/kit/admin.js";

adminPage("/api/admin/summary", (summary) => {
  const rows = summary.raters.map((rater) => [
    rater.name, rater.id, rater.revoked ? "revoked" : "valid", rater.done, percent(rater.gold), percent(rater.self_agreement),
    percent(rater.left), rater.bias?.toFixed(2) ?? "–", rater.seconds?.toFixed(1) ?? "–",
  ]);
  const head = ["Rater", "Id", "Invitation", "Answers", "Gold", "Repeats equal", "Left", "Bias", "Seconds"];
  byId("content").replaceChildren(
    element("p", {}, `${summary.title}. Protocol ${summary.hash.slice(0, 16)}. ${summary.closed ? "Closed." : "Open."}`),
    element("p", { class: "muted" }, `Plan: ${summary.num_raters} raters; ${summary.stop_rule}`),
    table(head, rows, 3),
  );
});
