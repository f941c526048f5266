"""Speech: the fraction of a clip that contains speech, close to 1 for a lecture.

Speech is detected by Silero VAD (MIT license), which processes 16 kHz audio in steps of 32 ms.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64

from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

MODEL = ModelFile(
    "silero_vad_16k_op15.onnx",
    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
    "it is in the PyPI package silero-vad 6.2.3",
    archive="pip:silero-vad==6.2.3",
    member="silero_vad/data/silero_vad_16k_op15.onnx",
    module="silero_vad",
)
_RATE = 16000
_STEP, _CONTEXT = 512, 64  # samples per step, and samples before it that are also part of the input


@dataclass(frozen=True)
class Speech:
    """Detected speech. See `signals.base.Signal`.

    Attributes:
        model: path of `silero_vad_16k_op15.onnx`.
        min_probability: minimum probability of a step that counts as speech.
        max_seconds: only this many seconds of audio are read.
    """

    name: ClassVar[str] = "speech"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("speech.share", "float", "Fraction of the audio that contains speech.", "", 0.0, 1.0),
        Column("speech.loudness", "float", "Root mean square of the audio, relative to full scale.", "dB"),
    )
    memory: ClassVar[int] = 150 * 2**20
    cost: ClassVar[float] = 0.005

    model: str = ""
    min_probability: float = 0.5
    max_seconds: float = 60.0

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return ()

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "onnxruntime") + MODEL.missing("signals.speech.model", self.model)

    def weights_hash(self) -> str:
        return sha256(MODEL.path(self.model))

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        from cogvideox.video.reading.audio import read_audio

        rate = load_detector(MODEL.path(self.model))

        def measure(clip: ClipInput) -> dict[str, Value]:
            if clip.row.get("is_image"):
                return dict.fromkeys(column.name for column in self.columns)
            end = min(clip.end, clip.start + self.max_seconds)
            return self.measure(read_audio(clip.path, clip.start, end, _RATE), rate)

        return measure

    def measure(
        self,
        sound: Float32[np.ndarray, " samples"],
        rate: Callable[[Float32[np.ndarray, " samples"]], Float64[np.ndarray, " steps"]],
    ) -> dict[str, Value]:
        """Return the columns; None for a clip without audio. `rate` returns the probability of speech every 32 ms."""
        if not len(sound):
            return dict.fromkeys(column.name for column in self.columns)
        power = float((sound.astype(np.float64) ** 2).mean())
        return {
            "speech.share": float((rate(sound) >= self.min_probability).mean()),
            "speech.loudness": max(-120.0, 10.0 * math.log10(power + 1e-12)),
        }


def load_detector(path: Path) -> Callable[[Float32[np.ndarray, " samples"]], Float64[np.ndarray, " steps"]]:
    """Load Silero VAD and return a function from 16 kHz audio to the probability of speech every 32 ms."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def rate(sound: Float32[np.ndarray, " samples"]) -> Float64[np.ndarray, " steps"]:
        steps = -(-len(sound) // _STEP)
        padded = np.zeros(_CONTEXT + steps * _STEP, np.float32)
        padded[_CONTEXT : _CONTEXT + len(sound)] = sound
        state, probabilities = np.zeros((2, 1, 128), np.float32), []
        for step in range(steps):
            part = padded[None, step * _STEP : (step + 1) * _STEP + _CONTEXT]
            output, state = session.run(None, {"input": part, "state": state, "sr": np.array(_RATE, np.int64)})
            probabilities.append(float(output[0, 0]))
        return np.array(probabilities)

    return rate
