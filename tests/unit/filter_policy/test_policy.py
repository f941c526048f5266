import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cogvideox.config import from_dict, to_dict
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.selector import Selector

COLUMNS = {
    "aesthetic": [3.0, 4.5, 5.0, None, 6.0],
    "flow": [0.1, 0.2, math.nan, 0.4, 9.0],
    "label": ["music", "sport", "", "sport", "news"],
}


def kept(*bounds: Bound, step: int = 0) -> list[int]:
    return np.flatnonzero(Selector(Policy(bounds), COLUMNS, 5).mask(step)).tolist()


def test_bounds_select_rows():
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(Bound("aesthetic", at_least=4.5)) == [1, 2, 4]
    assert kept(Bound("aesthetic", at_least=4.5, keep_missing=True)) == [1, 2, 3, 4]
    assert kept(Bound("flow", at_least=0.2, at_most=1.0)) == [1, 3]
    assert kept(Bound("label", among=("sport", "news"))) == [1, 3, 4]
    assert kept(Bound("label", among=("sport",), keep_missing=True)) == [1, 2, 3]
    assert kept(Bound("aesthetic", at_least=4.5), Bound("flow", at_most=1.0)) == [1]
    assert kept(Bound("unmeasured", at_least=0.0)) == []
    assert kept(Bound("unmeasured", at_least=0.0, keep_missing=True)) == [0, 1, 2, 3, 4]


def test_the_best_fraction_counts_only_rows_with_a_score():
    assert kept(Bound("aesthetic", best=0.25)) == [4]
    assert kept(Bound("aesthetic", best=0.5)) == [2, 4]
    assert kept(Bound("aesthetic", best=1.0)) == [0, 1, 2, 4]
    tied = Selector(Policy((Bound("score", best=0.2),)), {"score": [1, 2, 2, 2, 0]}, 5).mask(0)
    assert tied.tolist() == [False, True, True, True, False]


def test_bounds_apply_in_a_range_of_steps():
    policy = Policy((Bound("aesthetic", at_least=4.5, to_step=10), Bound("aesthetic", at_least=5.5, from_step=10)))
    assert [kept(*policy.bounds, step=step) for step in (0, 9, 10, 99)] == [[1, 2, 4], [1, 2, 4], [4], [4]]
    assert policy.knots == (0, 9, 10)
    assert Policy().knots == (0,)


def test_a_policy_is_plain_configuration():
    policy = Policy((Bound("flow", at_least=0.2), Bound("label", among=("sport",), from_step=3)))
    assert from_dict(Policy, to_dict(policy)) == policy


def test_policies_of_the_documentation_are_valid():
    page = (Path(__file__).parents[3] / "docs/policies.md").read_text(encoding="utf-8")
    policies = [from_dict(Policy, yaml.safe_load(block)) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(policies) == 4 and policies[-1].knots[-1] == 220_000


def test_unknown_columns_are_rejected():
    Policy((Bound("flow", at_least=1.0),)).check_columns(COLUMNS)
    with pytest.raises(UserError, match=r"bound on unknown column flows; did you mean flow\?"):
        Policy((Bound("flows", at_least=1.0),)).check_columns(COLUMNS)
    with pytest.raises(UserError, match="available: aesthetic, flow, label"):
        Policy((Bound("x", at_least=1.0),)).check_columns(COLUMNS)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({}, "needs at_least, at_most or best"),
        ({"at_least": 1.0, "among": ("a",)}, "needs at_least, at_most or best"),
        ({"at_least": math.nan}, "needs at_least, at_most or best"),
        ({"best": 0.0}, r"best=0.0 of the bound on x must be in \(0, 1\]"),
        ({"at_least": 2.0, "at_most": 1.0}, "at_least=2.0 above at_most=1.0"),
        ({"at_most": 1.0, "from_step": 5, "to_step": 5}, "never applies"),
    ],
)
def test_invalid_bounds_are_rejected(bound, message):
    with pytest.raises(UserError, match=message):
        Bound("x", **bound)


def test_numeric_bounds_on_strings_are_rejected():
    with pytest.raises(UserError, match="bound on label needs numbers"):
        kept(Bound("label", at_least=1.0))


def test_torch_is_not_imported():
    code = "import sys, cogvideox.filter_policy.selector; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
