"""Settings of variants that exclude each other."""

from dataclasses import replace

import pytest

from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.training.diffusion.recipes import RECIPES
from cogvideox.transformer.config import TransformerConfig


@pytest.mark.parametrize("variant", [{"attention": "factorized"}, {"separate_weights": "all"}])
def test_compilation_is_refused_for_blocks_that_depend_on_the_packing(variant):
    settings = RECIPES["pretrain-256"]()
    run = replace(settings.run, compile=True)
    assert replace(settings, run=run, transformer=TransformerConfig()).run.compile
    with pytest.raises(UserError, match=r"set run\.compile=false"):
        replace(settings, run=run, transformer=TransformerConfig(**variant))


def test_a_lora_has_no_schedule():
    with pytest.raises(UserError, match="a LoRA file has no noise schedule"):
        replace(RECIPES["lora"](), schedule=ScheduleConfig())
