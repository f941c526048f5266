"""Law: conversion to internal names and back changes no name and no value."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.state_dict.keymap import Interleave, Merge, Rename, Reshape, to_external, to_internal


@st.composite
def keymaps_with_states(draw):
    """Makers of rules over disjoint names, and an external state dict in random order with unknown tensors."""
    makers, state = [], {}
    kinds = draw(st.lists(st.sampled_from(["rename", "reshape", "merge", "interleave"]), min_size=1, max_size=5))
    for index, kind in enumerate(kinds):
        dim = draw(st.integers(0, 1))
        num_parts = draw(st.integers(2, 3)) if kind in ("merge", "interleave") else 1
        num_chunks = draw(st.integers(1, 3)) if kind == "interleave" else 1
        theirs = tuple(f"their{index}.{{n}}.part{part}.{{m}}.*" for part in range(num_parts))
        ours = f"our{index}.{{m}}.{{n}}.*"
        if kind == "rename":
            makers.append(partial(Rename, theirs[0], ours))
        elif kind == "reshape":
            makers.append(partial(Reshape, theirs[0], ours, torch.t, torch.t))
        elif kind == "merge":
            makers.append(partial(Merge, theirs, ours, dim))
        else:
            pieces = [(part, chunk) for part in range(num_parts) for chunk in range(num_chunks)]
            makers.append(partial(Interleave, theirs, ours, draw(st.permutations(pieces)), num_chunks, dim))
        shape = (num_chunks * draw(st.integers(1, 3)), num_chunks * draw(st.integers(1, 3)))
        for n, m, suffix in draw(
            st.sets(st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from(["weight", "bias", "a.b"])))
        ):
            for part in range(num_parts):
                numbers = torch.arange(shape[0] * shape[1]).reshape(shape)
                state[f"their{index}.{n}.part{part}.{m}.{suffix}"] = numbers + 1000 * len(state)
    for stranger in draw(st.sets(st.sampled_from(["lonely", "their0.x.part0.1.weight", "loss.weight"]))):
        state[stranger] = torch.ones(2)
    return makers, {name: state[name] for name in draw(st.permutations(sorted(state)))}


@settings(max_examples=60, deadline=None)
@given(keymaps_with_states())
def test_to_external_inverts_to_internal(case):
    makers, state = case
    rules = [make() for make in makers]
    ours = to_internal(state, rules)
    back = to_external(ours, rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = to_internal(back, rules)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
