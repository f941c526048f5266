"""The page of all settings is current, and describes those that are ours."""

import re

from tools import settings_reference

NETWORKS = r"transformer|text_encoder|model"  # named and described as in diffusers and transformers


def test_the_page_is_current_and_complete():
    page = settings_reference.reference()
    assert page == settings_reference.PAGE.read_text(encoding="utf-8"), "run python tools/settings_reference.py"
    own, _, _ = page.partition("## SummarizerTraining")
    rows = re.findall(r"^\| `([\w.]+)` \| (.*)\|$", own, re.MULTILINE)
    assert len(rows) > 150
    described = re.compile(r"\| [^|]*\w[^|]*$")
    undescribed = [name for name, cells in rows if not described.search(re.sub(r"\(group [^)]*\) $", "", cells))]
    assert [name for name in undescribed if not re.match(rf"({NETWORKS})\.", name)] == []


def test_values_defaults_and_groups():
    page = settings_reference.reference()
    assert "| `optim.lr` | number | `0.001` | peak learning rate |" in page
    assert "| `optim.name` | `adamw`, `muon` | `adamw` |" in page
    assert "| `lora` | group or none | `none` | None: train all weights (group LoRASettings) |" in page
    assert "gradient accumulation" in page
