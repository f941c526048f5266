"""Serve CogVLM2-Caption behind an OpenAI-compatible endpoint, for the stage `direct` of `cogvideox caption`.

The model needs its own code, an old transformers (4.42) and a GPU, so it runs in a separate environment:

    pip install "transformers==4.42" torch pillow fastapi uvicorn decord pytorchvideo
    python cogvlm2_server.py /models/cogvlm2-llama3-caption --port 8000

    direct: {kind: model, model: cogvlm2}
    models: {cogvlm2: {endpoint: {url: "http://127.0.0.1:8000/v1", model: cogvlm2, concurrency: 1}}}

Frames come as base64 JPEGs, 24 at most, as the captioner of the CogVideoX authors samples them. Decoding is greedy.
"""

import argparse
import base64
import io
import threading
from pathlib import Path

MAX_FRAMES = 24
DEFAULT_PROMPT = "Please describe this video in detail."


def parse_messages(messages: list[dict]) -> tuple[str, list[bytes]]:
    """Return the text of the last message, and the JPEGs of all of its images."""
    content = messages[-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [part["text"] for part in parts if part["type"] == "text" and not part["text"].startswith("t=")]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return " ".join(texts).strip() or DEFAULT_PROMPT, [base64.b64decode(url.partition(",")[2]) for url in urls]


class CogVLM2:
    """The model, one request at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.dtype = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
        options = {"trust_remote_code": True}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        network = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=self.dtype, **options)
        self.network = network.eval().to("cuda")
        self.lock = threading.Lock()

    def caption(self, query: str, jpegs: list[bytes], max_tokens: int) -> tuple[str, int, int]:
        """Return the caption, and the number of tokens of prompt and caption."""
        import numpy as np
        import torch
        from PIL import Image

        pictures = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs[:MAX_FRAMES]]
        video = torch.from_numpy(np.stack(pictures, 1)).permute(3, 1, 0, 2)  # c t h w
        with self.lock, torch.inference_mode():
            inputs = self.network.build_conversation_input_ids(
                tokenizer=self.tokenizer, query=query, images=[video], history=[], template_version="chat"
            )
            batch = {
                name: inputs[name].unsqueeze(0).to("cuda") for name in ("input_ids", "token_type_ids", "attention_mask")
            }
            batch["images"] = [[inputs["images"][0].to("cuda").to(self.dtype)]]
            output = self.network.generate(**batch, max_new_tokens=max_tokens, pad_token_id=128002, do_sample=False)
        length = batch["input_ids"].shape[1]
        text = self.tokenizer.decode(output[0, length:], skip_special_tokens=True)
        return text, length, output.shape[1] - length


def make_app(model: CogVLM2):
    """Return the web application."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/v1/chat/completions")
    def complete(body: dict) -> dict:
        query, jpegs = parse_messages(body["messages"])
        max_tokens = int(body.get("max_tokens", 2048))
        text, num_prompt, num_new = model.caption(query, jpegs, max_tokens)
        reason = "length" if num_new >= max_tokens else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        usage = {"prompt_tokens": num_prompt, "completion_tokens": num_new, "total_tokens": num_prompt + num_new}
        return {"object": "chat.completion", "model": body.get("model", ""), "choices": [choice], "usage": usage}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="model folder of cogvlm2-llama3-caption")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()

    import uvicorn

    uvicorn.run(make_app(CogVLM2(options.folder)), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
