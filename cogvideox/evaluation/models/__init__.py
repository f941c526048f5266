"""Networks of published scores in plain torch, which load the original checkpoints. No weights are included.

| module | network | checkpoint |
|---|---|---|
| `raft` | RAFT, optical flow | `raft-things.pth` |
| `clip` | CLIP ViT-B/32 and its tokenizer | `ViT-B-32.pt` (a TorchScript archive, read by `torchscript`) |
| `umt` | UMT ViT-L/16, actions of Kinetics-400 | `l16_ptk710_ftk710_ftk400_f16_res224.pth` |
| `dino` | DINO ViT | `dino_vitbase16_pretrain.pth` |

`interfaces` has the functions that scorers call, `loaders` adapts the networks to them, and the module
`cogvideox.evaluation.plugins` lists what can be chosen.
"""
