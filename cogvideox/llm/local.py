"""Local models by path: GGUF files through the server of llama.cpp in this process, folders through transformers."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.config import check_minimum
from cogvideox.errors import UserError
from cogvideox.llm.batching import BatchQueue
from cogvideox.llm.chat import Answer, ChatRequest, Frame
from cogvideox.llm.endpoint import Endpoint, EndpointModel

_SAMPLE = 2**20  # bytes hashed at the start, middle and end of a file


@dataclass(frozen=True)
class LlamaCpp:
    """A GGUF file, served by llama.cpp (package `xllamacpp`) on localhost.

    Attributes:
        path: the GGUF file.
        mmproj: GGUF file of the vision encoder, for models that read images.
        context: context length per call (prompt and completion), in tokens.
        concurrency: number of concurrent calls, each with its own context.
        threads: number of CPU threads; 0 uses all cores.
    """

    path: Path
    mmproj: Path | None = None
    context: int = 4096
    concurrency: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        check_minimum(self, context=64, concurrency=1, threads=0)

    def open(self) -> "LlamaCppModel":
        """Load the model and start the server.

        Raises:
            UserError: a package or the file is missing, or the file is not a model.
        """
        return LlamaCppModel(self)


class LlamaCppModel(EndpointModel):
    """A model served by llama.cpp in this process. See `chat.ChatModel`."""

    def __init__(self, config: LlamaCpp) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise UserError("xllamacpp is not installed: pip install 'cogvideox[llm]'") from error
        files = (config.path, *([config.mmproj] if config.mmproj else []))
        for path in files:
            _check_gguf(path)
        params = xllamacpp.CommonParams()
        params.model.path = str(config.path)
        if config.mmproj is not None:
            params.mmproj.path = str(config.mmproj)
        params.n_ctx = config.context * config.concurrency
        params.n_parallel = config.concurrency
        params.kv_unified = False
        params.warmup = False
        params.verbosity = 0
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        if config.threads:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            raise UserError(f"llama.cpp cannot load {config.path}: {error}") from error
        model_id = "+".join(f"{path.name}@{file_digest(path)}" for path in files)
        endpoint = Endpoint(f"{self._server.listening_address}/v1", config.path.stem, concurrency=config.concurrency)
        super().__init__(endpoint, model_id)

    def close(self) -> None:
        super().close()
        self._server = None  # stops the server


@dataclass(frozen=True)
class Transformers:
    """A model folder or GGUF file, loaded with transformers.

    Attributes:
        path: folder in the layout of the Hugging Face hub, or a GGUF file of a text model.
        device: torch device, such as "cpu" or "cuda".
        dtype: data type of the weights: "float32", "bfloat16" or "float16".
        trust_code: whether to run Python code from the model folder.
        batch_size: maximum number of requests per batch. Only greedy requests are batched.
    """

    path: Path
    device: str = "cpu"
    dtype: str = "float32"
    trust_code: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_minimum(self, batch_size=1)

    def open(self) -> "TransformersModel":
        """Load the model.

        Raises:
            UserError: a package or the folder is missing, or the folder is not a model.
        """
        return TransformersModel(self)


class TransformersModel:
    """A chat model run by transformers in this process, in batches. See `chat.ChatModel`."""

    def __init__(self, config: Transformers) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise UserError("transformers is not installed: pip install 'cogvideox[llm]'") from error
        if not config.path.exists():
            raise UserError(f"cannot read {config.path}: it does not exist; specify a model folder or a GGUF file")
        is_file = config.path.is_file()
        if is_file:
            _check_gguf(config.path)
        folder = str(config.path.parent if is_file else config.path)
        options: dict[str, Any] = {"gguf_file": config.path.name} if is_file else {}
        options |= {"local_files_only": True, "trust_remote_code": config.trust_code}
        try:
            settings = transformers.AutoConfig.from_pretrained(folder, **options)
            self._has_vision = not is_file and hasattr(settings, "vision_config")
            reader = transformers.AutoProcessor if self._has_vision else transformers.AutoTokenizer
            network = (
                transformers.AutoModelForImageTextToText if self._has_vision else transformers.AutoModelForCausalLM
            )
            self._processor = reader.from_pretrained(folder, **options)
            dtype = getattr(torch, config.dtype)
            self._network = network.from_pretrained(folder, dtype=dtype, **options).to(config.device).eval()
        except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"transformers cannot load {config.path}: {reason}") from error
        digest = file_digest(config.path) if is_file else folder_digest(config.path)
        self.model_id = f"{config.path.name}@{digest}/{config.dtype}"
        self.concurrency = 1 if config.batch_size == 1 else 2 * config.batch_size
        self._lock = threading.Lock()
        self._queue: BatchQueue[ChatRequest, Answer] = BatchQueue(self._complete_batch, config.batch_size)
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        tokenizer.padding_side = "left"  # all completions of a batch begin at the same position
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        self._network = self._processor = None

    def complete(self, request: ChatRequest) -> Answer:
        if request.sampling.temperature > 0:
            with self._lock:
                return self._generate([request])[0]
        return self._queue(request)

    def _complete_batch(self, requests: list[ChatRequest]) -> list[Answer]:
        """Answer greedy requests. Those with the same limit of tokens are a batch, separately with and without images,
        because the processors of some models (SmolVLM, Gemma 3) need images in every prompt or in none."""
        answers: dict[int, Answer] = {}
        kinds = [(request.sampling.max_tokens, _has_images(request)) for request in requests]
        with self._lock:
            for kind in dict.fromkeys(kinds):
                indices = [i for i, other in enumerate(kinds) if other == kind]
                answers |= dict(zip(indices, self._generate([requests[i] for i in indices])))
        return [answers[index] for index in range(len(requests))]

    def _generate(self, requests: list[ChatRequest]) -> list[Answer]:
        """Answer requests with the same sampling in one batch."""
        import torch

        template = {"add_generation_prompt": True, "tokenize": False}
        prompts, images = [], []
        for request in requests:
            messages, shown = self._messages(request)
            if not self._has_vision and shown:
                raise UserError(f"{self.model_id} reads no images: choose a vision-language model for frames")
            prompts.append(self._processor.apply_chat_template(messages, **template))
            images += [shown] if shown else []
        keywords: dict[str, Any] = {"images": images} if images else {}
        if len(prompts) > 1:
            keywords["padding"] = True
        sampling = requests[0].sampling
        generation: dict[str, Any] = {"do_sample": sampling.temperature > 0, "max_new_tokens": sampling.max_tokens}
        if sampling.temperature > 0:
            generation |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        with torch.inference_mode(), torch.random.fork_rng(enabled=sampling.seed is not None):
            inputs = self._processor(text=prompts, return_tensors="pt", add_special_tokens=False, **keywords)
            inputs = inputs.to(self._network.device)
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            output = self._network.generate(**inputs, **generation)
        start = inputs["input_ids"].shape[1]
        counts = inputs["attention_mask"].sum(1).tolist()
        return [self._answer(ids, count, sampling.max_tokens) for ids, count in zip(output[:, start:].tolist(), counts)]

    def _answer(self, ids: list[int], prompt_tokens: int, max_tokens: int) -> Answer:
        """Return the answer of generated token ids, which end with the end token or are padded after it."""
        end = self._network.generation_config.eos_token_id
        ends = {end} if isinstance(end, int) else {*(end or ())}
        stop = next((index for index, token in enumerate(ids) if token in ends), None)
        length = len(ids) if stop is None else stop + 1
        text = self._processor.decode(ids[:length], skip_special_tokens=True)
        reason = "length" if stop is None and length >= max_tokens else "stop"
        return Answer(text, text, self.model_id, prompt_tokens, length, reason)

    def _messages(self, request: ChatRequest) -> tuple[list[dict[str, Any]], list[Any]]:
        """Return the messages for the chat template, and the images."""
        from cogvideox.video.jpeg import decode_jpeg

        messages, images = [], []
        for message in request.messages:
            content: list[dict[str, str]] = []
            for part in message.parts:
                if isinstance(part, Frame):
                    images.append(decode_jpeg(part.jpeg))
                    content += [] if part.time is None else [{"type": "text", "text": f"t={part.time:.1f}s"}]
                    content.append({"type": "image"})
                else:
                    content.append({"type": "text", "text": part})
            plain = "".join(part for part in message.parts if isinstance(part, str))
            messages.append({"role": message.role, "content": content if self._has_vision else plain})
        return messages, images


def _has_images(request: ChatRequest) -> bool:
    return any(isinstance(part, Frame) for message in request.messages for part in message.parts)


def file_digest(path: Path) -> str:
    """Return a hash of a file's size, start, middle and end."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in (0, size // 2, max(0, size - _SAMPLE)):
            file.seek(offset)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:12]


def folder_digest(path: Path) -> str:
    """Return a hash of the names and `file_digest`s of the files in a model folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:12]


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"cannot read {path}: it is not a GGUF file")
