import pytest
import torch
from torch import nn

from cogvideox.errors import UserError
from cogvideox.state_dict.key_rules import Merge
from cogvideox.state_dict.strict_load import convert_into, load_strict


def test_loading_into_a_meta_module_does_not_copy():
    with torch.device("meta"):
        layer = nn.Linear(4, 8)
    state = {"weight": torch.randn(8, 4, dtype=torch.bfloat16), "bias": torch.zeros(8, dtype=torch.bfloat16)}
    load_strict(layer, state, where="x.safetensors")
    assert layer.weight.data_ptr() == state["weight"].data_ptr()
    assert layer.bias.dtype == torch.bfloat16


def test_the_error_lists_every_mismatch():
    layer = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    state = {"0.weight": torch.ones(8, 5), "0.bias": torch.ones(8), "1.bias": torch.ones(2), "2.bias": torch.ones(1)}
    with pytest.raises(UserError) as caught:
        load_strict(layer, state, where="x.safetensors")
    assert str(caught.value) == (
        "the weights in x.safetensors do not match their config: 1 tensor missing (1.weight); "
        "1 unexpected tensor (2.bias); 1 tensor with the wrong shape (0.weight is [8, 5], not [8, 4])"
    )


def test_the_error_uses_the_names_in_the_file():
    rules = [Merge(("q", "k"), "weight")]
    layer = nn.Linear(2, 4, bias=False)
    with pytest.raises(UserError, match=r"config: 1 tensor missing \(k\)$"):
        load_strict(layer, {"q": torch.ones(2, 2)}, where="x", rules=rules)
    wide = {"q": torch.ones(2, 3), "k": torch.ones(2, 3)}
    with pytest.raises(UserError, match=r"q \+ k is \[4, 3\], not \[4, 2\]"):
        load_strict(layer, wide, where="x", rules=rules)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinity_are_rejected(value, dtype):
    layer = nn.Linear(4, 8)
    state = {"weight": torch.full((8, 4), 60000.0, dtype=dtype), "bias": torch.zeros(8, dtype=dtype)}
    load_strict(layer, state, where="x")  # large finite values are accepted
    state["weight"][3, 2] = value
    with pytest.raises(UserError, match=r"x are damaged: 1 tensor with NaN or infinity \(weight\)"):
        load_strict(layer, state, where="x")


RULES = [Merge(("q", "k"), "qk")]


@pytest.fixture
def state():
    return {"q": torch.randn(2, 3), "k": torch.randn(2, 3), "out": torch.randn(3)}


@pytest.fixture
def targets():
    return {"qk": torch.zeros(4, 3, dtype=torch.bfloat16), "out": torch.zeros(3)}


def test_convert_into_fills_existing_tensors(state, targets):
    qk = targets["qk"]
    convert_into(state, targets, where="a file", rules=RULES)
    assert targets["qk"] is qk and torch.equal(qk, torch.cat([state["q"], state["k"]]).bfloat16())
    assert torch.equal(targets["out"], state["out"])


def test_convert_into_rejects_missing_tensors_and_nan(state, targets):
    with pytest.raises(UserError, match=r"missing \(k\)"):
        convert_into({"q": state["q"], "out": state["out"]}, targets, where="a file", rules=RULES)
    state["k"][0, 0] = torch.nan
    with pytest.raises(UserError, match=r"a file are damaged: 1 tensor with NaN or infinity \(q \+ k\)"):
        convert_into(state, targets, where="a file", rules=RULES)


def test_convert_into_rejects_values_too_large_for_the_target_dtype(state, targets):
    state["k"][0, 0] = 70000.0
    convert_into(state, targets, where="a file", rules=RULES)
    targets["qk"] = torch.zeros(4, 3, dtype=torch.float16)
    with pytest.raises(
        UserError, match=r"fit in float16 \(largest value 65504\): .* larger values \(q \+ k\); use bfloat16"
    ):
        convert_into(state, targets, where="a file", rules=RULES)


def test_convert_into_casts_and_checks_float8_tensors(state, targets):
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    convert_into(state, targets, where="a file", rules=RULES)
    assert torch.equal(targets["out"], state["out"].float())
    state["out"][1] = torch.nan
    with pytest.raises(UserError, match=r"1 tensor with NaN or infinity \(out\)"):
        convert_into(state, targets, where="a file", rules=RULES)
