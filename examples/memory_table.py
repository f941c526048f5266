"""Memory plans of the official models on GPUs of several sizes: the table of docs/memory.md. No weights are needed.

    python examples/memory_table.py

Sizes are the models' defaults, 50 steps with guidance, in bfloat16 (2B: float16, which is as large), with 64 GiB of
main memory. Times are estimates.
"""

from cogvideox.errors import UserError
from cogvideox.formatting import format_gib
from cogvideox.pretrained.offload.hardware import hypothetical_gpu
from cogvideox.pretrained.offload.memory_planner import plan_memory
from cogvideox.pretrained.offload.plan import MemoryPlan, ModelProfile, Workload
from cogvideox.text.config import T5Config
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.config import PRESETS as VAES

DEFAULT_SIZES = {"2b": (49, 480, 720), "5b": (49, 480, 720), "1.5-5b": (81, 768, 1360)}
GPUS = {8: "RTX 4060", 12: "RTX 3060", 16: "RTX 4080", 24: "RTX 4090", 48: "L40S", 80: "H100"}
ITEMSIZES = {"transformer": 2, "text_encoder": 2, "vae": 2}  # bytes per value in the files
STRATEGIES = {"resident": "resident", "model_offload": "model offload", "group_offload": "group offload"}


def main() -> None:
    print("| model | GiB | text encoder | transformer | VAE | peak GiB: text, denoise, decode | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (num_frames, height, width) in DEFAULT_SIZES.items():
        model = ModelProfile(name, PRESETS[name](), VAES[name](), T5Config(), 226, ITEMSIZES)
        workload = Workload(num_frames, height, width, num_inference_steps=50, window_frames=num_frames)
        for size, gpu in GPUS.items():
            try:
                print(row(name, size, plan_memory(model, workload, hypothetical_gpu(gpu, size))))
            except UserError as error:
                print(f"| {name} | {size} | {str(error).rpartition('; ')[2]} | | | | |")


def row(name: str, size: int, plan: MemoryPlan) -> str:
    """Return a row of the table."""
    strips = "whole" if plan.vae_slicing.strips == 1 else f"{plan.vae_slicing.strips} strips"
    vae = strips + (", offload" if plan.vae_slicing.offload else "")
    phases = (plan.bytes_text, plan.bytes_denoise, plan.bytes_decode)
    peaks = ", ".join(format_gib(phase).removesuffix(" GiB") for phase in phases)
    where = f"{STRATEGIES[plan.text_encoder]} | {STRATEGIES[plan.transformer]} | {vae}"
    return f"| {name} | {size} | {where} | {peaks} | {plan.seconds / 60:.0f} on {plan.hardware.name} |"


if __name__ == "__main__":
    main()
