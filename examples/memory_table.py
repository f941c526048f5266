"""Which plan each official model gets on cards of several sizes: the table of docs/memory.md. No weights are needed.

    python examples/memory_table.py

Sizes are the models' own, 50 steps with guidance, bfloat16 files and arithmetic (2B: float16, which is as large), and
64 GB of main memory. Times are estimates for a GPU of that name.
"""

from cogvideox.errors import UserError
from cogvideox.pretrained.offload.hardware import hypothetical_gpu
from cogvideox.pretrained.offload.planner import MemoryPlan, ModelProfile, Workload, format_gib, plan_memory
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import PRESETS
from cogvideox.vae.config import PRESETS as VAES

NATIVE = {"2b": (49, 480, 720), "5b": (49, 480, 720), "1.5-5b": (81, 768, 1360)}
CARDS = {8: "RTX 4060", 12: "RTX 3060", 16: "RTX 4080", 24: "RTX 4090", 48: "L40S", 80: "H100"}
STORED = {"transformer": 2, "text_encoder": 2, "vae": 2}  # bytes
WORDS = {"resident": "resident", "model_offload": "in turn", "group_offload": "group_offload"}


def main() -> None:
    print("| model | GB | text encoder | transformer | VAE | peak GB: text, denoise, decode | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (num_frames, height, width) in NATIVE.items():
        model = ModelProfile(name, PRESETS[name](), VAES[name](), T5Config(), 226, STORED)
        demand = Workload(num_frames, height, width, num_inference_steps=50, window_frames=num_frames)
        for size, card in CARDS.items():
            try:
                print(row(name, size, plan_memory(model, demand, hypothetical_gpu(card, size))))
            except UserError as error:
                print(f"| {name} | {size} | {str(error).rpartition('; ')[2]} | | | | |")


def row(name: str, size: int, chosen: MemoryPlan) -> str:
    """One line of the table."""
    strips = "whole" if chosen.vae.strips == 1 else f"{chosen.vae.strips} strips"
    vae = strips + (", offload" if chosen.vae.offload else "")
    phases = (chosen.bytes_text, chosen.bytes_denoise, chosen.bytes_decode)
    peaks = ", ".join(format_gib(phase).removesuffix(" GB") for phase in phases)
    where = f"{WORDS[chosen.text_encoder]} | {WORDS[chosen.transformer]} | {vae}"
    return f"| {name} | {size} | {where} | {peaks} | {chosen.seconds / 60:.0f} on {chosen.machine.name} |"


if __name__ == "__main__":
    main()
