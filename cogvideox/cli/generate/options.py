"""The flags of `cogvideox generate`."""

import argparse
from pathlib import Path
from typing import get_args

from cogvideox.cli.arguments import Parser
from cogvideox.pretrained.model_spec import shipped_models
from cogvideox.pretrained.offload.transformer_cost import WeightFormat


def parser() -> Parser:
    """The flags. Those without a default are None where they are not given: the model then says, or `--from`."""
    summary = "Make a video of a sentence, an image or a video. What is not given is the model's own default."
    p = Parser("generate", '"PROMPT"', summary)
    on_or_off = argparse.BooleanOptionalAction
    p.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the video shows; without it, the model's example")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="x.mp4, x.gif or x.png; with an x.json beside it")
    p.add_argument("--sheet", action="store_true", help="also save all frames on one picture, x-sheet.png")
    p.add_argument("--from", type=Path, metavar="X.JSON", help="make that video again; other options change it")
    prompts = "a prompt on each line; run again, it goes on where it stopped. -o is then a folder"
    p.add_argument("--prompts", type=Path, metavar="FILE", help=prompts)
    models = [*shipped_models(), "the path of a folder in the diffusers layout"]
    p.add_argument("--model", metavar="NAME|PATH", help=" or ".join(models))

    lora = "lay a LoRA over the model; may be said several times"
    p.add_argument("--lora", action="append", metavar="FILE[:STRENGTH]", help=lora)

    given = p.add_argument_group("from an image or a video")
    given.add_argument("--image", type=Path, metavar="FILE", help="what an image-to-video model animates")
    given.add_argument("--video", type=Path, metavar="FILE", help="a video that is made anew, after the prompt")
    given.add_argument("--strength", type=float, metavar="X", help="how much of it is new: above 0, to 1; usual is 0.8")
    given.add_argument("--extend", action=on_or_off, help="continue the video; --num-frames counts its frames too")
    given.add_argument("--invert", action=on_or_off, help="edit the video by DDIM inversion: layout and motion stay")
    given.add_argument("--fit", metavar="cover|contain|stretch", help="into another size: cut, with bars, or squashed")
    scale = "of image latents in 1.5 models: as the official code has it (sat, usual), or as diffusers has"
    given.add_argument("--image-latent-scale", metavar="sat|diffusers", help=scale)

    size = p.add_argument_group("size and length")
    size.add_argument("--num-frames", type=int, metavar="N", help="4k+1, such as 9 or 49")
    size.add_argument("--height", type=int, metavar="PIXELS", help="a multiple of 16")
    size.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 16")
    size.add_argument("--fps", type=float, metavar="X", help="frames a second; --video is read at as many")
    size.add_argument("--window", type=int, metavar="N", help="make a long video in windows of so many frames, 4k+1")
    size.add_argument("--overlap", type=int, metavar="N", help="frames that windows share: half, or another 4k")
    size.add_argument("--position-rule", metavar="resize_crop|slice", help="how rotary positions follow the size")

    steps = p.add_argument_group("denoising")
    steps.add_argument("--num-inference-steps", type=int, metavar="N", help="more steps are slower and finer")
    steps.add_argument("--sampler", metavar="ddim|dpm++", help="of first order, or of second (2M)")
    eta = "noise added in each step, 0 to 1; usual is 0 for ddim and 1 for dpm++"
    steps.add_argument("--eta", type=float, metavar="X", help=eta)
    steps.add_argument("--guidance-scale", type=float, metavar="X", help="how closely to follow the prompt; 1: not")
    steps.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    steps.add_argument("--dynamic-guidance", action=on_or_off, help="change the scale as the official samples do")
    steps.add_argument("--smooth-guidance", action=on_or_off, help="let the scale rise over the steps")
    interval = "guidance only between two fractions of the steps, such as 0.1 0.7"
    steps.add_argument("--guidance-interval", type=float, nargs=2, metavar=("FROM", "TO"), help=interval)
    halves = "its two halves one after the other: less memory, the same video"
    steps.add_argument("--sequential-guidance", action=on_or_off, help=halves)
    cache = "leave out steps that are easily foretold; the error that may add, such as 0.02. Another video, faster"
    steps.add_argument("--cache", type=float, metavar="X", help=cache)
    steps.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same video; drawn when not given")
    steps.add_argument("--num-videos", type=_count, default=1, metavar="N", help="with seeds that follow each other")

    machine = p.add_argument_group("machine")
    machine.add_argument("--device", metavar="auto|cpu|cuda", help="auto: CUDA where there is a GPU")
    machine.add_argument("--dtype", metavar="auto|float32|bfloat16|float16", help="auto: float32 on a CPU")
    memory = "auto: the fastest way in what is free; low: the smallest; speed: all on the device; or a limit"
    machine.add_argument("--memory", metavar="auto|speed|low|12GB", help=memory)
    weights = "int8 and fp8 take half of bfloat16's memory, and change the video"
    machine.add_argument("--weights", choices=get_args(WeightFormat), metavar="exact|int8|fp8", help=weights)
    machine.add_argument("--plan", action="store_true", help="say what that comes to, and make nothing")
    compiled = "compile the transformer's blocks: some seconds before the first step, less for each"
    machine.add_argument("--compile", action="store_true", help=compiled)
    float8 = "multiply the blocks' large matrices in 8 bits, on GPUs that can: faster, and another video"
    machine.add_argument("--float8", action=on_or_off, help=float8)
    return p


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} must be 1 or more")
    return count
