"""Law: converting a state dict to internal names and back restores every name and value."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.state_dict.key_rules import Interleave, Merge, Rename, Reshape, to_external, to_internal


@st.composite
def keymaps_with_states(draw):
    """Return constructors of rules for disjoint names, and a shuffled external state dict with unknown tensors."""
    constructors, state = [], {}
    kinds = draw(st.lists(st.sampled_from(["rename", "reshape", "merge", "interleave"]), min_size=1, max_size=5))
    for index, kind in enumerate(kinds):
        dim = draw(st.integers(0, 1))
        num_parts = draw(st.integers(2, 3)) if kind in ("merge", "interleave") else 1
        num_chunks = draw(st.integers(1, 3)) if kind == "interleave" else 1
        external = tuple(f"external{index}.{{n}}.part{part}.{{m}}.*" for part in range(num_parts))
        internal = f"internal{index}.{{m}}.{{n}}.*"
        if kind == "rename":
            constructors.append(partial(Rename, external[0], internal))
        elif kind == "reshape":
            constructors.append(partial(Reshape, external[0], internal, torch.t, torch.t))
        elif kind == "merge":
            constructors.append(partial(Merge, external, internal, dim))
        else:
            chunks = [(part, chunk) for part in range(num_parts) for chunk in range(num_chunks)]
            order = draw(st.permutations(chunks))
            constructors.append(partial(Interleave, external, internal, order, num_chunks, dim))
        shape = (num_chunks * draw(st.integers(1, 3)), num_chunks * draw(st.integers(1, 3)))
        for n, m, suffix in draw(
            st.sets(st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from(["weight", "bias", "a.b"])))
        ):
            for part in range(num_parts):
                values = torch.arange(shape[0] * shape[1]).reshape(shape)
                state[f"external{index}.{n}.part{part}.{m}.{suffix}"] = values + 1000 * len(state)
    for unknown in draw(st.sets(st.sampled_from(["unknown", "external0.x.part0.1.weight", "loss.weight"]))):
        state[unknown] = torch.ones(2)
    return constructors, {name: state[name] for name in draw(st.permutations(sorted(state)))}


@settings(max_examples=60, deadline=None)
@given(keymaps_with_states())
def test_to_external_inverts_to_internal(case):
    constructors, state = case
    rules = [construct() for construct in constructors]
    internal = to_internal(state, rules)
    external = to_external(internal, rules)
    assert external.keys() == state.keys()
    assert all(torch.equal(external[name], state[name]) for name in state)
    repeated = to_internal(external, rules)
    assert repeated.keys() == internal.keys()
    assert all(torch.equal(repeated[name], internal[name]) for name in internal)
