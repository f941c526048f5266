"""Which plan each official model gets on cards of several sizes: the table of docs/memory.md. No weights are needed.

    python examples/memory_table.py

Sizes are the models' own, 50 steps with guidance, bfloat16 files and arithmetic (2B: float16, which is as large), and
64 GB of main memory. Times are estimates for a GPU of that name.
"""

from cogvideox.errors import UserError
from cogvideox.formatting import format_gib
from cogvideox.pretrained.offload.hardware import hypothetical_gpu
from cogvideox.pretrained.offload.plan import MemoryPlan, ModelProfile, Workload
from cogvideox.pretrained.offload.planner import plan_memory
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import PRESETS
from cogvideox.vae.config import PRESETS as VAES

NATIVE = {"2b": (49, 480, 720), "5b": (49, 480, 720), "1.5-5b": (81, 768, 1360)}
CARDS = {8: "RTX 4060", 12: "RTX 3060", 16: "RTX 4080", 24: "RTX 4090", 48: "L40S", 80: "H100"}
STORED = {"transformer": 2, "text_encoder": 2, "vae": 2}  # bytes
STRATEGIES = {"resident": "resident", "model_offload": "model offload", "group_offload": "group offload"}


def main() -> None:
    print("| model | GB | text encoder | transformer | VAE | peak GB: text, denoise, decode | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (num_frames, height, width) in NATIVE.items():
        model = ModelProfile(name, PRESETS[name](), VAES[name](), T5Config(), 226, STORED)
        workload = Workload(num_frames, height, width, num_inference_steps=50, window_frames=num_frames)
        for size, card in CARDS.items():
            try:
                print(row(name, size, plan_memory(model, workload, hypothetical_gpu(card, size))))
            except UserError as error:
                print(f"| {name} | {size} | {str(error).rpartition('; ')[2]} | | | | |")


def row(name: str, size: int, chosen: MemoryPlan) -> str:
    """One line of the table."""
    strips = "whole" if chosen.vae_mode.strips == 1 else f"{chosen.vae_mode.strips} strips"
    vae = strips + (", offload" if chosen.vae_mode.offload else "")
    phases = (chosen.bytes_text, chosen.bytes_denoise, chosen.bytes_decode)
    peaks = ", ".join(format_gib(phase).removesuffix(" GB") for phase in phases)
    where = f"{STRATEGIES[chosen.text_encoder]} | {STRATEGIES[chosen.transformer]} | {vae}"
    return f"| {name} | {size} | {where} | {peaks} | {chosen.seconds / 60:.0f} on {chosen.hardware.name} |"


if __name__ == "__main__":
    main()
