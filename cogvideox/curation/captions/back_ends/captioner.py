"""Captioning with an end-to-end video captioner trained by `toybox-captioner`, in batches and worker processes."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from cogvideox import config as configs
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected
from cogvideox.curation.captions.video_captioner.config import CaptionerConfig
from cogvideox.curation.signals.base import Sampling
from cogvideox.errors import UserError
from cogvideox.executor.worker_pool import WorkerPool
from cogvideox.llm.batching import BatchQueue
from cogvideox.llm.local import folder_digest

Frames = UInt8[np.ndarray, "_ _ _ 3"]
Caption = tuple[str, int, bool]
"""Caption, number of tokens, and whether it was cut off."""
_CONFIG = "captioner.json"


@dataclass(frozen=True)
class CaptionTask:
    """Batch task that captions clips in worker processes. See `executor.base.BatchTask`."""

    folder: Path

    def open(self, worker: int) -> Callable[[Sequence[Frames]], list[Caption]]:
        """Load the captioner on the GPU of this worker, or on the CPU."""
        import torch

        from cogvideox.curation.captions.video_captioner.model_folder import load_captioner

        count = torch.cuda.device_count()
        model = load_captioner(self.folder, f"cuda:{worker % count}" if count else "cpu")
        return lambda clips: model.generate([torch.from_numpy(np.ascontiguousarray(frames)) for frames in clips])


class VideoCaptionerBackEnd:
    """Back-end that captions clips with a video captioner, for the stages `short` and `direct`. See `base.Captioner`.

    Args:
        folder: folder of the captioner.
        batch_size: maximum number of clips per batch.
        processes: number of worker processes; 0 uses this process.

    Raises:
        UserError: the folder is not a video captioner.
    """

    can_retry: ClassVar[bool] = False

    def __init__(self, folder: Path, batch_size: int = 8, processes: int = 0) -> None:
        if not (folder / _CONFIG).is_file():
            raise UserError(f"{folder} is not a video captioner: it has no {_CONFIG}; train one with toybox-captioner")
        config = configs.load(CaptionerConfig, folder / _CONFIG)
        self.samplings: tuple[Sampling, ...] = (config.vision.sampling,)
        self.identity = f"captioner {folder_digest(folder)}"
        self.concurrency = 2 * batch_size * max(1, processes)
        task = CaptionTask(folder)
        self._pools = [WorkerPool(task, 1, first_index=index, processes=processes) for index in range(processes)]
        self._idle: queue.SimpleQueue[WorkerPool] = queue.SimpleQueue()
        for pool in self._pools:
            self._idle.put(pool)
        caption_batch = self._caption_in_worker if processes else task.open(0)
        self._queue: BatchQueue[Frames, Caption] = BatchQueue(caption_batch, batch_size, max(1, processes))

    def _caption_in_worker(self, clips: Sequence[Frames]) -> list[Caption]:
        pool = self._idle.get()
        try:
            pool.submit(clips)
            return pool.wait_for_result()
        finally:
            self._idle.put(pool)

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        """See `base.Captioner`."""
        start = time.perf_counter()
        text, tokens, cut_off = self._queue(clip.frames[self.samplings[0]].frames)
        seconds = time.perf_counter() - start
        return Draft(text, None, "length" if cut_off else "stop", completion_tokens=tokens, seconds=seconds)

    def close(self) -> None:
        """Stop the worker processes."""
        for pool in self._pools:
            pool.close()
