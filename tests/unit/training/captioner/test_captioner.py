"""Training of the video captioner: facts, batches of different lengths, exact resume, captioning with the result."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyarrow import parquet

from cogvideox import config as configs
from cogvideox.curation.captions.captioned_folder import CaptionedClip
from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
from cogvideox.curation.captions.run import caption_folder
from cogvideox.curation.captions.video_captioner.config import CaptionerConfig, DecoderConfig, VisionConfig
from cogvideox.curation.captions.video_captioner.model_folder import load_captioner
from cogvideox.curation.captions.video_captioner.vision import prepare_frames
from cogvideox.curation.pipeline import sample_frames
from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.grammar import fact_name
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.captioner.captioner_data import rendered_batch
from cogvideox.training.captioner.captioner_trainer import build_captioner, check_lengths, train
from cogvideox.training.captioner.config import LanguageLora
from cogvideox.training.captioner.fact_head import FactHead, middle, sorted_scene
from cogvideox.training.captioner.recipes import toybox_captioner
from cogvideox.training.captioner.scores import scene_facts, stated_facts
from cogvideox.video import io

pytest.importorskip("transformers")

VISION = VisionConfig(size=24, channels=(8, 8, 16), num_layers=1, num_heads=2, pool_frames=3)
MODEL = CaptionerConfig(VISION, DecoderConfig(width=16, num_layers=1, num_heads=2, vocab_size=320), max_tokens=12)
BASE = toybox_captioner()
RUN = replace(BASE.run, num_steps=6, batch_size=4, device="cpu")
SETTINGS = replace(
    BASE,
    model=MODEL,
    run=replace(RUN, log_interval=1, save_interval=3, validate_interval=6),
    scenes=replace(BASE.scenes, num_frames=(3, 4)),
    pretraining_steps=2,
    num_held_out=4,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert train(SETTINGS, out) == out / "captioner"
    return out


@pytest.fixture(scope="module")
def model():
    return build_captioner(SETTINGS, []).eval()


def random_clips(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (n, 24, 24, 3), dtype=torch.uint8, generator=generator) for n in lengths]


@pytest.mark.parametrize("grammar", ["core", "pair", "full"])
def test_complete_captions_state_the_facts_of_their_scenes(grammar):
    for seed in range(40):
        scene = sorted_scene(sample_scene(seed, grammar))
        facts = scene_facts(scene)
        verdict = stated_facts(caption_scene(scene, "plain", seed, complete=True), facts)
        assert verdict.keys() == facts.keys()
        assert all(verdict.values()), (scene, verdict)


def test_facts_are_matched_to_toys_in_any_order():
    facts = {fact_name(name, i): word for i, toy in ((1, "red"), (2, "blue")) for name, word in (("color", toy),)}
    facts |= {"shape": "ball", "shape 2": "cube", "count": "two"}
    assert all(stated_facts("a blue cube and a red ball move left", facts).values())
    verdict = stated_facts("a red cube", facts)
    assert sum(verdict.values()) == 1 and not verdict["count"]


def test_toys_are_sorted_by_their_position_in_the_middle_of_the_clip():
    scenes = [sorted_scene(sample_scene(seed, "pair", seconds=2.0, count="two")) for seed in range(20)]
    for scene in scenes:
        first, second = (middle(toy, 2.0)[0] for toy in scene.toys)
        assert first <= second


def test_cells_of_the_fact_head_contain_the_toys():
    scenes = [sorted_scene(sample_scene(seed, "pair")) for seed in range(6)]
    head, tokens = FactHead(8, "pair"), torch.zeros(6, 36, 8, requires_grad=True)
    head(tokens, scenes, 36).backward()
    assert tokens.grad is not None
    for index, scene in enumerate(scenes):
        cells = set()
        for toy in scene.toys:
            x, y = middle(toy, scene.seconds)
            cells.add(int((y + 0.5) * 6) * 6 + int((x + 0.5) * 6))
        largest = set(torch.topk(tokens.grad[index].norm(dim=1), len(cells)).indices.tolist())
        assert largest == cells


def test_padding_frames_and_other_clips_do_not_change_the_features(model):
    clips = [prepare_frames(clip, VISION) for clip in random_clips((2, 7, 4))]
    lengths = torch.tensor([2, 7, 4])
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=9.0)
    with torch.no_grad():
        tokens, valid = model.vision(padded, lengths)
        for index, clip in enumerate(clips):
            alone, _ = model.vision(clip[None], lengths[index : index + 1])
            torch.testing.assert_close(tokens[index][valid[index]], alone[0], rtol=1e-4, atol=1e-5)


def test_a_batch_of_different_lengths_gives_the_captions_of_single_clips(model):
    clips = random_clips((2, 9, 5))
    assert model.generate(clips) == [model.generate([clip])[0] for clip in clips]


def test_long_clips_are_sampled_evenly(model):
    vision = replace(VISION, max_frames=3)
    frames = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 24, 24, 3)
    assert prepare_frames(frames, vision)[:, 0, 0, 0].add(1).mul(127.5).round().tolist() == [0, 3, 6]


def test_run_has_metrics_checkpoints_and_a_captioner(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "lr" in line]
    assert "caption_loss" not in steps[0] and "caption_loss" in steps[-1] and "fact_loss" in steps[-1]
    assert {"validation/color", "validation/count", "held_out/motion", "validation/loss"} <= lines[-1].keys()
    assert (trained / "checkpoints/latest").read_text().strip() == "step-00000006"


def test_resumed_run_equals_uninterrupted_run(trained, tmp_path):
    assert train(SETTINGS, tmp_path, max_seconds=0.0) is None
    assert train(SETTINGS, tmp_path, resume=True) == tmp_path / "captioner"
    for file in ("captioner.safetensors", "decoder/model.safetensors"):
        assert (tmp_path / "captioner" / file).read_bytes() == (trained / "captioner" / file).read_bytes()


def test_loss_falls():
    settings = replace(SETTINGS, pretraining_steps=0, fact_weight=0.0)
    model = build_captioner(settings, [])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    batch = rendered_batch(settings, 0)
    losses = []
    for _ in range(12):
        loss = model(batch.frames, batch.num_frames, model.tokenize(batch.captions)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(4)
    for number, num_frames in enumerate((5, 9, 13)):
        frames = render_scene(sample_scene(rng, "core"), num_frames=num_frames, height=32, width=48)
        io.write(folder / f"{number}.mp4", np.asarray(frames), 8.0)
    return folder


def pipeline(captioner, **fields):
    return CaptionPipelineConfig(direct=StageConfig("captioner", path=captioner, **fields), measure=(), repairs=0)


def test_captioning_with_a_trained_captioner(trained, folder, tmp_path):
    result = caption_folder(folder, tmp_path / "out", pipeline(trained / "captioner", batch_size=2))
    rows = parquet.read_table(tmp_path / "out/captions.parquet").to_pylist()
    assert len(rows) == 3 and sum(result.statuses.values()) == 3
    model, captions = load_captioner(trained / "captioner"), {row["source"]: row["caption.direct"] for row in rows}
    for row in rows:
        clip = {"path": str(folder / row["source"]), **{name: row[name] for name in ("start", "end", "is_image")}}
        frames = torch.from_numpy(sample_frames(clip, [model.config.vision.sampling])[0].frames)
        assert captions[row["source"]] == " ".join(model.generate([frames])[0][0].split())


@pytest.mark.slow
def test_captioning_in_worker_processes_gives_the_same_captions(trained, folder, tmp_path):
    captions = []
    for processes in (0, 2):
        out = tmp_path / str(processes)
        caption_folder(folder, out, pipeline(trained / "captioner", batch_size=1, processes=processes))
        captions.append(parquet.read_table(out / "captions.parquet").column("caption.direct").to_pylist())
    assert captions[0] == captions[1]


def test_training_on_a_captioned_folder(folder, tmp_path):
    pytest.importorskip("cv2")
    toybox = CaptionPipelineConfig(short=StageConfig("toybox"), measure=())
    caption_folder(folder, tmp_path / "captions", toybox)
    settings = replace(
        SETTINGS,
        model=replace(MODEL, max_tokens=96),
        data=(str(tmp_path / "captions"),),
        pretraining_steps=0,
        fact_weight=0.0,
        validation_fraction=0.4,
        run=replace(SETTINGS.run, num_steps=2, validate_interval=2),
    )
    assert train(settings, tmp_path / "run") == tmp_path / "run/captioner"


def test_captions_that_would_be_cut_off_in_training_are_an_error(model):
    clips = [CaptionedClip(str(length), {}, "ball " * length) for length in (1, 40)]
    check_lengths(model, clips[:1])
    with pytest.raises(
        UserError, match=r"1 of 2 captions have more than model\.max_tokens=12 tokens, the longest \d+: set"
    ):
        check_lengths(model, clips)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ("x",)}, "need the facts of rendered scenes"),
        ({"freeze_vision": True}, "set model.vision.path"),
        ({"num_held_out": 0}, "1 or more"),
    ],
)
def test_invalid_settings_are_errors(change, message):
    with pytest.raises(UserError, match=message):
        replace(SETTINGS, **change)


def test_folders_that_are_no_captioner_are_errors(trained, tmp_path):
    with pytest.raises(UserError, match="not a video captioner"):
        load_captioner(tmp_path)
    with pytest.raises(UserError, match="needs `path`"):
        StageConfig("captioner")
    with pytest.raises(UserError, match="not an output folder"):
        train(replace(SETTINGS, data=(str(tmp_path),), pretraining_steps=0, fact_weight=0.0), tmp_path / "run")
    assert configs.from_dict(type(SETTINGS), configs.to_dict(SETTINGS)) == SETTINGS


def test_pretrained_vision_encoder_and_decoder_are_loaded_by_path_and_saved(trained, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    sizes = {"image_size": 24, "patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(hidden_size=16, intermediate_size=32, **sizes)).save_pretrained(tmp_path / "clip")
    vision = VisionConfig(path=str(tmp_path / "clip"), size=24, pool_frames=1)
    model = replace(MODEL, vision=vision, decoder=DecoderConfig(path=str(trained / "captioner/decoder")))
    settings = replace(
        SETTINGS,
        model=model,
        freeze_vision=True,
        lora=LanguageLora(rank=2),
        pretraining_steps=0,
        fact_weight=0.0,
        run=replace(SETTINGS.run, num_steps=2, validate_interval=0),
    )
    folder = train(settings, tmp_path / "run")
    assert folder is not None
    state = (tmp_path / "run/checkpoints/step-00000002/state.json").read_text()
    assert "lora_A" in state and "vision/network" not in state and "vision/time_embedding" in state
    loaded, clips = load_captioner(folder), random_clips((2, 3))
    before = CLIPVisionModel.from_pretrained(tmp_path / "clip").state_dict()
    after = loaded.vision.network.state_dict()
    assert all(torch.equal(after[name.removeprefix("vision_model.")], weight) for name, weight in before.items())
    assert loaded.generate(clips) == [loaded.generate([clip])[0] for clip in clips]
