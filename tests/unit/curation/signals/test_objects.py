"""The objects signal: counts from scores and boxes, and operations of the graph format against PyTorch's."""

import base64
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cogvideox.curation.signals.base import SampledFrames
from cogvideox.curation.signals.models.objects import KINDS, Objects, count_objects
from cogvideox.curation.signals.models.tfjs import OPERATIONS, Graph
from cogvideox.errors import UserError


def scores_of(*objects: tuple[int, int, str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of objects at these places (row, column), and boxes that reach 20 pixels to each side."""
    scores = np.zeros((32, 32, len(KINDS)), np.float32)
    for y, x, kind, score in objects:
        scores[y, x, KINDS.index(kind)] = score
    return scores, np.full((32, 32, 4), 20.0, np.float32)


def test_peaks_are_counted_and_overlapping_boxes_are_not():
    near_and_far = scores_of((5, 5, "person", 0.9), (5, 7, "person", 0.6), (20, 20, "person", 0.5), (6, 6, "dog", 0.8))
    counts = count_objects(*near_and_far, 0.4)
    assert counts[KINDS.index("person")] == 2 and counts[KINDS.index("dog")] == 1 and counts.sum() == 3
    assert count_objects(*near_and_far, 0.85).sum() == 1


def test_columns():
    assert len(KINDS) == len(set(KINDS)) == 80
    detections = iter([scores_of((5, 5, "person", 0.9), (20, 20, "person", 0.9)), scores_of((3, 3, "car", 0.5))])
    sampled = SampledFrames(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2.0), 2.0)
    measured = Objects().measure(sampled, lambda frame: next(detections))
    assert measured["objects.kinds"] == "person\ncar" and measured["objects.counts"] == [1.0, 0.5]
    assert measured["objects.num_objects"] == 1.5 and measured["objects.num_people"] == 1.0


def write_graph(folder: Path, stride: int, weight: np.ndarray, bias: np.ndarray, op: str) -> Graph:
    def text(value: str) -> str:
        return base64.b64encode(value.encode()).decode()

    attributes = {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "padding": {"s": text("SAME")},
        "fused_ops": {"list": {"s": [text("BiasAdd"), text("Relu")]}},
    }
    nodes = [
        {"name": "x", "op": "Placeholder"},
        *({"name": name, "op": "Const"} for name in ("weight", "bias")),
        {"name": "y", "op": op, "input": ["x", "weight", "bias"], "attr": attributes},
    ]
    arrays = {"weight": weight, "bias": bias}
    manifest = [{"name": name, "shape": array.shape, "dtype": "float32"} for name, array in arrays.items()]
    graph = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": manifest}]}
    (folder / "graph.json").write_text(json.dumps(graph))
    (folder / "graph.bin").write_bytes(b"".join(array.astype("<f4").tobytes() for array in arrays.values()))
    return Graph(folder / "graph.json", folder / "graph.bin")


@pytest.mark.parametrize("depthwise", [False, True])
def test_fused_convolution(depthwise: bool, tmp_path: Path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 4, 1 if depthwise else 6)).astype(np.float32)
    bias = rng.normal(size=4 if depthwise else 6).astype(np.float32)
    graph = write_graph(tmp_path, 2, weight, bias, "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D")
    x = torch.from_numpy(rng.normal(size=(1, 8, 7, 4)).astype(np.float32))
    (y,) = graph.run({"x": x}, ["y"])
    # 8 rows: one row of zeros at the end; 7 columns: one at each side.
    kernel = torch.from_numpy(weight).permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    padded = F.pad(x.permute(0, 3, 1, 2), (1, 1, 0, 1))
    expected = F.conv2d(padded, kernel, torch.from_numpy(bias), 2, groups=4 if depthwise else 1).relu()
    torch.testing.assert_close(y, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("content", ["{}", '{"modelTopology": {"node": []}, "weightsManifest": [{"weights": []}]}'])
def test_other_files_are_rejected(content: str, tmp_path: Path):
    (tmp_path / "graph.json").write_text(content)
    (tmp_path / "graph.bin").write_bytes(b"")
    signal = Objects(graph=str(tmp_path / "graph.json"), weights_file=str(tmp_path / "graph.bin"))
    with pytest.raises(UserError, match="not the published object detector"):
        signal.open()


def test_activations_are_freed_after_a_run(tmp_path: Path, monkeypatch):
    """Without waiting for the garbage collector, which runs too rarely to bound the memory of a worker."""
    graph = write_graph(tmp_path, 1, np.ones((1, 1, 4, 6), np.float32), np.zeros(6, np.float32), "_FusedConv2D")
    graph.nodes["z"] = {"name": "z", "op": "Relu", "input": ["y"]}
    activations = []
    monkeypatch.setitem(OPERATIONS, "Relu", lambda _, x: (activations.append(weakref.ref(x)), x + 1)[1])
    gc.disable()
    try:
        (z,) = graph.run({"x": torch.ones(1, 2, 2, 4)}, ["z"])
        assert float(z.max()) == 5.0
        assert [reference() for reference in activations] == [None]
    finally:
        gc.enable()
