"""Networks of published scores against transformers (CLIP, DINO's ViT, VideoMAE) with the same random weights."""

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.models.clip import load_clip
from cogvideox.evaluation.models.clip_tokenizer import CLIPTokenizer
from cogvideox.evaluation.models.dino import load_dino
from cogvideox.evaluation.models.umt import load_umt, sinusoidal_positions

transformers = pytest.importorskip("transformers")

WIDTH, DEPTH = 128, 2  # two heads of 64 channels


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(model):
    """Draw all weights from a normal distribution, so that no initialization hides an error."""
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1.0
    return model.eval()


def linear(state: dict, source: str, target: str) -> dict:
    return {f"{target}.{kind}": state[f"{source}.{kind}"] for kind in ("weight", "bias")}


@torch.inference_mode()
def test_dino_equals_vit_also_at_other_sizes(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=4 * WIDTH, image_size=32,
        patch_size=8, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = randomized(transformers.ViTModel(config, add_pooling_layer=False))
    state = model.state_dict()
    original = {"cls_token": state["embeddings.cls_token"], "pos_embed": state["embeddings.position_embeddings"]}
    original |= linear(state, "embeddings.patch_embeddings.projection", "patch_embed.proj")
    original |= linear(state, "layernorm", "norm")
    for n in range(DEPTH):
        layer, block = f"layers.{n}", f"blocks.{n}"
        for kind in ("weight", "bias"):
            parts = [state[f"{layer}.attention.{name}_proj.{kind}"] for name in "qkv"]
            original[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
        original |= linear(state, f"{layer}.attention.o_proj", f"{block}.attn.proj")
        original |= linear(state, f"{layer}.layernorm_before", f"{block}.norm1")
        original |= linear(state, f"{layer}.layernorm_after", f"{block}.norm2")
        original |= linear(state, f"{layer}.mlp.fc1", f"{block}.mlp.fc1")
        original |= linear(state, f"{layer}.mlp.fc2", f"{block}.mlp.fc2")
    torch.save(original, tmp_path / "dino.pth")
    network = load_dino(tmp_path / "dino.pth")
    images = torch.randn(2, 3, 32, 32)
    expected = model(images).last_hidden_state[:, 0]
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)
    images = torch.randn(2, 3, 40, 48)  # positions are interpolated, with the size instead of the original's scale
    expected = model(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(network(images), expected, atol=0.05, rtol=0.05)


@torch.inference_mode()
@pytest.mark.parametrize("stored", [True, False])
def test_umt_equals_videomae_with_tubelets_of_one_frame(tmp_path, stored):
    config = transformers.VideoMAEConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=4 * WIDTH, image_size=32,
        patch_size=16, num_frames=16, tubelet_size=1, layer_norm_eps=1e-6, num_labels=7, use_mean_pooling=True,
    )  # fmt: skip
    model = randomized(transformers.VideoMAEForVideoClassification(config))
    positions = torch.randn(1, 16 * 4, WIDTH) if stored else sinusoidal_positions(16, 2, WIDTH)
    model.videomae.embeddings.position_embeddings = positions
    state = model.state_dict()
    original = linear(state, "videomae.embeddings.patch_embeddings.projection", "patch_embed.proj")
    original |= linear(state, "fc_norm", "fc_norm") | linear(state, "classifier", "head")
    for n in range(DEPTH):
        layer, block = f"videomae.encoder.layer.{n}", f"blocks.{n}"
        attention = f"{layer}.attention.attention"
        parts = [state[f"{attention}.{name}.weight"] for name in ("query", "key", "value")]
        original[f"{block}.attn.qkv.weight"] = torch.cat(parts)
        original[f"{block}.attn.q_bias"] = state[f"{attention}.query.bias"]
        original[f"{block}.attn.v_bias"] = state[f"{attention}.value.bias"]
        original |= linear(state, f"{layer}.attention.output.dense", f"{block}.attn.proj")
        original |= linear(state, f"{layer}.layernorm_before", f"{block}.norm1")
        original |= linear(state, f"{layer}.layernorm_after", f"{block}.norm2")
        original |= linear(state, f"{layer}.intermediate.dense", f"{block}.mlp.fc1")
        original |= linear(state, f"{layer}.output.dense", f"{block}.mlp.fc2")
    if stored:
        original["pos_embed"] = positions
    torch.save({"module": original}, tmp_path / "umt.pth")
    network = load_umt(tmp_path / "umt.pth", side=32)
    video = torch.randn(1, 3, 16, 32, 32)
    expected = model(video.transpose(1, 2)).logits
    torch.testing.assert_close(network(video), expected, atol=1e-4, rtol=1e-4)


def test_sinusoidal_positions_are_interpolated_between_frames():
    table = sinusoidal_positions(8, 2, 4)[0].view(8, 4, 4)
    token = 4 * 3 + 2  # frame 3, third token
    expected = [torch.tensor(float(token)).sin(), torch.tensor(float(token)).cos()]
    assert torch.allclose(table[3, 2, :2], torch.stack(expected), atol=1e-6)
    finer = sinusoidal_positions(16, 2, 4)[0].view(16, 4, 4)
    assert torch.allclose(finer[0], table[0])  # frame i is at (i + 0.5) / 2 - 0.5 of the table
    assert torch.allclose(finer[7], 0.75 * table[3] + 0.25 * table[4], atol=1e-6)


def tiny_clip():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH}
    text = sizes | {"vocab_size": 100, "max_position_embeddings": 12, "eos_token_id": 99, "hidden_act": "quick_gelu"}
    vision = sizes | {"image_size": 64, "patch_size": 32, "hidden_act": "quick_gelu"}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = randomized(transformers.CLIPModel(config))
    state = model.state_dict()
    vision, text = "vision_model", "text_model"
    original = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "token_embedding.weight": state[f"{text}.embeddings.token_embedding.weight"],
        "positional_embedding": state[f"{text}.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "visual.conv1.weight": state[f"{vision}.embeddings.patch_embedding.weight"],
        "visual.class_embedding": state[f"{vision}.embeddings.class_embedding"],
        "visual.positional_embedding": state[f"{vision}.embeddings.position_embedding.weight"],
    }
    original |= linear(state, f"{text}.final_layer_norm", "ln_final")
    original |= linear(state, f"{vision}.pre_layrnorm", "visual.ln_pre")
    original |= linear(state, f"{vision}.post_layernorm", "visual.ln_post")
    for tower, prefix in ((vision, "visual."), (text, "")):
        for n in range(DEPTH):
            layer, block = f"{tower}.encoder.layers.{n}", f"{prefix}transformer.resblocks.{n}"
            for kind in ("weight", "bias"):
                parts = [state[f"{layer}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
                original[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            original |= linear(state, f"{layer}.self_attn.out_proj", f"{block}.attn.out_proj")
            original |= linear(state, f"{layer}.layer_norm1", f"{block}.ln_1")
            original |= linear(state, f"{layer}.layer_norm2", f"{block}.ln_2")
            original |= linear(state, f"{layer}.mlp.fc1", f"{block}.mlp.c_fc")
            original |= linear(state, f"{layer}.mlp.fc2", f"{block}.mlp.c_proj")
    return model, original


class Tree(torch.nn.Module):
    """Modules and parameters with given names."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name in dict.fromkeys(name.partition(".")[0] for name in tensors):
            inner = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == name}
            if "" in inner:
                self.register_parameter(name, torch.nn.Parameter(inner[""], requires_grad=False))
            else:
                self.add_module(name, Tree(inner))

    def forward(self, x):
        return x + 1


@torch.inference_mode()
@pytest.mark.parametrize("archive", [False, True])
def test_clip_equals_transformers_from_a_state_dict_and_from_a_torchscript_archive(tmp_path, archive):
    model, original = tiny_clip()
    if archive:
        torch.jit.save(torch.jit.trace(Tree(original), torch.zeros(1)), tmp_path / "clip.pt")
    else:
        torch.save(original, tmp_path / "clip.pt")
    network = load_clip(tmp_path / "clip.pt")
    images = torch.randn(3, 3, 64, 64)
    tokens = torch.randint(1, 98, (2, 12))
    tokens[0, 7], tokens[1, 4] = 99, 99
    tokens[0, 8:], tokens[1, 5:] = 0, 0
    expected = model(input_ids=tokens, pixel_values=images).logits_per_image
    torch.testing.assert_close(network.similarity(images, tokens), expected, atol=1e-5, rtol=1e-5)


class Evil:
    def __reduce__(self):
        return (print, ("code",))


def test_an_archive_that_would_run_code_is_rejected(tmp_path):
    import pickle
    import zipfile

    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as file:
        file.writestr("clip/constants.pkl", b"")
        file.writestr("clip/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match="would run code"):
        load_clip(tmp_path / "clip.pt")


def test_the_tokenizer_equals_transformers(tmp_path):
    merges = [("a", "n"), ("an", "d</w>"), ("t", "h"), ("th", "e</w>"), ("s", "s</w>"), ("1", "2"), ("l", "l")]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.load(tmp_path / "merges.txt")
    vocabulary = dict(tokenizer._tokens)
    vocabulary |= {"<|startoftext|>": tokenizer.start, "<|endoftext|>": tokenizer.end}
    reference = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    for text in (
        "The cat and  the dog's BALL!",
        "Van Gogh style, 1234",
        "a person is marching_ band &amp; ball",
        "naïve ss",
    ):
        assert [tokenizer.start, *tokenizer.encode(text), tokenizer.end] == reference(
            text.replace("&amp;", "&")
        ).input_ids, text
    rows = tokenizer(["and the", "a"], num_tokens=8)
    assert rows.shape == (2, 8) and rows[0, 0] == tokenizer.start and rows[1, -1] == 0
    with pytest.raises(UserError, match="CLIP reads 8"):
        tokenizer(["a b c d e f g h i"], num_tokens=8)
    (cut,) = tokenizer(["a b c d e f g h i"], num_tokens=8, truncate=True).tolist()
    assert cut == [tokenizer.start, *tokenizer.encode("a b c d e f"), tokenizer.end]
