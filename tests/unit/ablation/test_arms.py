"""Every arm is a complete config that differs from the baseline as declared, and has what is declared to be equal."""

from functools import cache

import pytest

from cogvideox.ablation.arm import differences, num_steps_of, scaled, variant
from cogvideox.ablation.baselines import diffusion, vae
from cogvideox.ablation.costs import Costs, costs_of
from cogvideox.ablation.registry import ABLATIONS, get_ablation
from cogvideox.ablation.scores.metrics import TIMESTEPS, metric_of
from cogvideox.errors import UserError
from cogvideox.toybox.scenes.core import TRAVEL

ARMS = [(name, arm.name) for name in ABLATIONS for arm in get_ablation(name).arms]
TOLERANCE = {"parameters": 0.01, "tokens": 0.0, "row budget": 0.0, "compute": 0.03, "steps": 0.0}
"""Relative difference that still counts as equal. Learned positions add 0.5 % of the parameters."""


@cache
def cached_costs(name: str, arm: str) -> Costs:
    return costs_of(get_ablation(name).arm(arm))


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_arms_are_equal_as_declared(name, arm):
    ablation = get_ablation(name)
    base, costs = cached_costs(name, ablation.baseline.name), cached_costs(name, arm)
    values = {
        "parameters": (costs.parameters, base.parameters),
        "tokens": (costs.tokens, base.tokens),
        "row budget": (costs.row_budget, base.row_budget),
        "compute": (costs.flops, base.flops),
        "steps": (num_steps_of(ablation.arm(arm).stages), num_steps_of(ablation.baseline.stages)),
    }
    for quantity in ablation.equal:
        value, expected = values[quantity]
        assert value == pytest.approx(expected, rel=TOLERANCE[quantity]), quantity


def test_tokens_of_a_step_are_those_of_the_clips_in_its_rows():
    """Rows of clips of one length are full: 32 clips of 24 text and 48 video tokens. Mixed lengths leave gaps."""
    packed, bucketed, fixed = (cached_costs("lengths", arm) for arm in ("frame pack", "buckets", "fixed length"))
    assert fixed.tokens == fixed.row_budget == 32 * 72
    assert 0.9 * fixed.tokens < bucketed.tokens < 0.98 * packed.tokens < packed.tokens < fixed.tokens


def test_low_resolution_first_has_the_compute_of_high_resolution_only():
    flops = [cached_costs("resolution", arm).flops for arm in ("low then high", "interpolated", "high only")]
    assert flops[1:] == pytest.approx(flops[:1] * 2, rel=0.003)


def test_compute_of_a_vae_depends_on_its_compression():
    """The counted operations of `torch.utils.flop_counter`, forward and backward, relative to the baseline."""
    base, *others = (cached_costs("vae-channels", arm.name) for arm in get_ablation("vae-channels").arms)
    ratios = [costs.flops / base.flops for costs in others]
    assert ratios == pytest.approx([0.9976, 1.0048, 1.3223, 0.7880, 0.9755], rel=0.003)


def test_toys_of_the_attention_ablation_move_by_most_of_a_patch_per_latent_frame():
    (source,) = get_ablation("attention").baseline.settings.toybox
    num_latents = 1 + (source.clips.num_frames - 1) // 4
    assert num_latents > 2
    assert TRAVEL[0] * source.clips.width / (num_latents - 1) / 16 > 0.6


@pytest.mark.parametrize("name", ABLATIONS)
def test_arms_differ(name):
    ablation = get_ablation(name)
    assert ablation.name == name
    for arm in ablation.arms[1:]:
        assert arm.stages != ablation.baseline.stages


@pytest.mark.parametrize("name", ABLATIONS)
def test_arms_with_equal_stages_differ_in_few_settings(name):
    """Whatever differs beside the first setting keeps something equal, and is described."""
    ablation = get_ablation(name)
    for arm in ablation.arms[1:]:
        if len(arm.stages) == len(ablation.baseline.stages) and name != "lengths":
            changed = {
                key.split("[")[0].rpartition(".")[0] or key
                for key in differences(arm.settings, ablation.baseline.settings)
            }
            assert len(changed) <= 2 or arm.other_changes, (arm.name, changed)


@pytest.mark.parametrize("name", ABLATIONS)
def test_findings_are_about_metrics_that_are_measured(name):
    ablation = get_ablation(name)
    sets = {"clip": set(ablation.evaluation.clips), "prompt": set(ablation.evaluation.videos), "run": {""}}
    for finding in ablation.findings:
        metric, of_set = metric_of(finding.metric), finding.metric.partition(", ")[2]
        assert of_set in sets[metric.per], finding.metric
    assert not ablation.is_vae or not ablation.evaluation.videos


def test_differences_name_the_changed_setting_only():
    base = diffusion()
    changed = variant(base, {"optim.lr": 1e-4})
    assert differences(changed, base) == {"optim.lr": (3e-3, 1e-4)}
    assert differences(base, base) == {}


def test_steps_scale_warmup_ema_and_phases():
    base = vae({"loss.gan": 0.1, "disc_start": 1_500, "disc_warmup_steps": 300})
    half = scaled(base, 1_500, seed=4)
    assert (half.run.num_steps, half.run.seed, half.optim.warmup_steps) == (1_500, 4, 30)
    assert (half.encoder_steps, half.disc_start, half.disc_warmup_steps) == (1_500, 750, 150)
    # The EMA averages over the same fraction of the steps: 1 / 0.007 of 3,000, and half as many of 1,500.
    assert 1 - half.run.ema_decay == pytest.approx(2 * (1 - base.run.ema_decay), rel=1e-3)
    assert scaled(base, 3, seed=0).run.ema_decay == 0


def test_unknown_ablations_are_named_errors():
    with pytest.raises(UserError, match="unknown ablation 'rope': choose one of positions"):
        get_ablation("rope")


def test_timesteps_are_those_of_table_9():
    assert TIMESTEPS == (100, 300, 500, 700, 900)
