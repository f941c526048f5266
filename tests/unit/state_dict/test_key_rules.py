import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.state_dict.key_rules import (
    Interleave,
    Merge,
    Rename,
    Reshape,
    external_names,
    join_into,
    join_tensor,
    to_external,
    to_internal,
)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_rename_preserves_the_values_of_placeholders():
    rules = [Rename("down.{n}.block.{m}.*", "levels.{n}.blocks.{m}.*")]
    state = {"down.0.block.11.conv.weight": torch.ones(1), "down.3.block.2.bias": torch.zeros(1)}
    internal = to_internal(state, rules)
    assert set(internal) == {"levels.0.blocks.11.conv.weight", "levels.3.blocks.2.bias"}
    assert same_tensors(to_external(internal, rules), state)


def test_dots_in_a_pattern_are_literal():
    rules = [Rename("a.b", "c")]
    assert set(to_internal({"axb": torch.ones(1)}, rules)) == {"axb"}


def test_merge_concatenates_in_the_order_of_the_rule():
    rules = [Merge(("x.{n}.q.*", "x.{n}.k.*", "x.{n}.v.*"), "y.{n}.qkv.*")]
    state = {f"x.4.{part}.weight": torch.full((2, 3), i) for i, part in ((2, "v"), (0, "q"), (1, "k"))}
    internal = to_internal(state, rules)
    assert internal["y.4.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert same_tensors(to_external(internal, rules), state)


def test_interleave_reorders_the_chunks():
    # Expert adaLN has twelve parts: diffusers stores two linear layers with six each, SAT one layer with twelve.
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5)]
    rules = [Interleave(("norm1.*", "norm2.*"), "modulation.*", order, num_chunks=6)]
    state = {"norm1.bias": torch.arange(6), "norm2.bias": torch.arange(6, 12)}
    internal = to_internal(state, rules)
    assert internal["modulation.bias"].tolist() == [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    assert same_tensors(to_external(internal, rules), state)


def test_reshape_is_inverted():
    rules = [Reshape("proj.weight", "patch.weight", lambda w: w.flatten(1), lambda w: w.unflatten(1, (4, 2, 2)))]
    state = {"proj.weight": torch.randn(3, 4, 2, 2)}
    internal = to_internal(state, rules)
    assert internal["patch.weight"].shape == (3, 16)
    assert same_tensors(to_external(internal, rules), state)


@pytest.mark.parametrize(
    "rule",
    [
        Rename("a", "joined"),
        Reshape("a", "joined", lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1)),
        Merge(("a", "b", "c"), "joined"),
        Merge(("a", "b"), "joined", dim=1),
        Interleave(("a", "b"), "joined", order=[(1, 0), (0, 1), (0, 0), (1, 1)], num_chunks=2),
    ],
)
def test_join_into_equals_join_tensor(rule):
    parts = [torch.randn(4, 4) for _ in rule.external]
    expected = join_tensor("joined", [rule], parts)
    out = torch.full_like(expected, torch.nan, dtype=torch.float64)
    join_into("joined", [rule], parts, out)
    assert torch.equal(out.float(), expected)


def test_join_into_equals_join_tensor_for_parts_of_unequal_size():
    parts = [torch.randn(1, 3), torch.randn(3, 3)]
    rules = [Merge(("a", "b"), "joined")]
    out = torch.empty(4, 3)
    join_into("joined", rules, parts, out)
    assert torch.equal(out, join_tensor("joined", rules, parts))


def test_unmatched_names_and_incomplete_merges_are_unchanged():
    rules = [Merge(("q.*", "k.*"), "qk.*")]
    state = {"q.weight": torch.ones(1), "other": torch.ones(1)}
    assert same_tensors(to_internal(state, rules), state)


def test_the_first_matching_rule_applies():
    rules = [Rename("a.special.*", "s.*"), Rename("a.*", "b.*")]
    assert set(to_internal({"a.special.w": torch.ones(1), "a.w": torch.ones(1)}, rules)) == {"s.w", "b.w"}


def test_external_names_lists_all_tensors_of_a_merge():
    assert external_names("qk.3.weight", [Merge(("q.{n}.*", "k.{n}.*"), "qk.{n}.*")]) == ("q.3.weight", "k.3.weight")


def test_mismatched_shapes_raise_a_user_error():
    with pytest.raises(UserError, match=r"q \[2, 3\], k \[2, 4\]"):
        to_internal({"q": torch.ones(2, 3), "k": torch.ones(2, 4)}, [Merge(("q", "k"), "qk")])
    order = [(0, 0), (1, 0), (0, 1), (1, 1)]
    with pytest.raises(UserError, match=r"ab \[5\]"):
        to_external({"ab": torch.ones(5)}, [Interleave(("a", "b"), "ab", order, num_chunks=2)])


def test_duplicate_names_are_rejected():
    with pytest.raises(ValueError, match="the same name b"):
        to_internal({"a": torch.ones(1), "b": torch.ones(1)}, [Rename("a", "b")])


@pytest.mark.parametrize(
    "make_rule",
    [
        lambda: Rename("a.{n}.x", "b.x"),
        lambda: Rename("a.*", "b.weight"),
        lambda: Merge(("a", "a"), "b"),
        lambda: Interleave(("a", "b"), "c", [(0, 0), (0, 0)], num_chunks=1),
    ],
)
def test_rules_that_cannot_be_inverted_are_rejected(make_rule):
    with pytest.raises(ValueError):
        make_rule()
