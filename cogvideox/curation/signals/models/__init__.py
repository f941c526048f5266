"""Signals that need a trained model, which is read from a file that the user provides.

No model file is part of this package. `curation.model_files` describes where files are searched for. Signals with
missing files are skipped with a note.

| module | signal | model |
|---|---|---|
| `aesthetics` | `aesthetics` | LAION's head on CLIP ViT-L/14 |
| `brisque` | `brisque` | OpenCV's support vector regression |
| `objects` | `objects` | CenterNet trained on COCO, in the format of TensorFlow.js (`tfjs.py`) |
| `speech` | `speech` | Silero VAD |
| `tags` | `tags` | EfficientNet-Lite0 (`efficientnet_lite.py`) trained on ImageNet |
"""
