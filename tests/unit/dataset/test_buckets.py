"""Clip sizes are reported if a policy keeps hardly any clips of that size."""

import numpy as np

from cogvideox.dataset.buckets import Buckets
from cogvideox.dataset.mixture import ClipTable, DataSource, Mixture, MixtureSettings
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.schedule import Schedule

SIZES = np.array([[9, 64, 96]] * 30 + [[1, 64, 96]] * 20)


def test_a_bucket_collapses_below_a_tenth_of_what_the_source_keeps():
    buckets = Buckets("clips", SIZES)
    assert buckets.collapsed(np.ones(50, dtype=bool)) == ()
    kept = np.arange(50) < 30
    assert buckets.collapsed(kept) == ("1 frames of 96x64 in clips: 0 of 20 clips",)
    kept[30:32] = True  # 10% of the images, 64% of the clips
    assert buckets.collapsed(kept) == ()
    assert buckets.collapsed(np.zeros(50, dtype=bool)) == ()


def test_plans_report_collapsed_buckets():
    columns = {"score": np.arange(50) / 50}
    table = ClipTable(np.full(50, 10), SIZES[:, 0] == 1, columns, SIZES)
    policy = Policy((Bound("score", at_most=Schedule((0, 4), (1.0, 0.2))),))
    mixture = Mixture({"a": table}, MixtureSettings((DataSource("a"),), row_tokens=40, num_rows=2, policy=policy), 0)
    state, collapsed = mixture.initial_state(), []
    for _ in range(5):
        plan = mixture.plan_step(state)
        state = plan.state_after
        collapsed.append(len(plan.collapsed))
    assert collapsed == [0, 0, 1, 1, 1]
