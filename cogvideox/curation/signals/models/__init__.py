"""Signals that need a trained model, read from a file of the user.

No model file is part of this package. `files.py` says where they are looked for; a signal whose file is missing is left
out of a curation, and named.

| module | signal | model |
|---|---|---|
| `brisque` | `brisque` | support vector regression of OpenCV |
| `objects` | `objects` | CenterNet trained on COCO, in the format of TensorFlow.js (`tfjs.py`) |
| `speech` | `objects` | `objects` | CenterNet trained on COCO, in the format of TensorFlow.js (`tfjs.py`) |
| `speech` | Silero VAD |
| `tags` | `tags` | EfficientNet-Lite0 (`efficientnet_lite.py`) trained on ImageNet |
| `aesthetics` | `aesthetics` | LAION's head on CLIP ViT-L/14 |
"""
