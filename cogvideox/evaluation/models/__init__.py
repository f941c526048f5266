"""Networks of published scores in plain torch, which load the original checkpoints. No weights are included.

| module | network | checkpoint |
|---|---|---|
| `raft` | RAFT, optical flow | `raft-things.pth` |
| `clip` | CLIP ViT-B/32 and its tokenizer | `ViT-B-32.pt` (a TorchScript archive, read by `torchscript`) |
| `umt` | UMT ViT-L/16, actions of Kinetics-400 | `l16_ptk710_ftk710_ftk400_f16_res224.pth` |
| `dino` | DINO ViT | `dino_vitbase16_pretrain.pth` |

`plugins` lists the models that a scorer can use, by role; some are variants whose scores do not compare with published
ones.
"""
