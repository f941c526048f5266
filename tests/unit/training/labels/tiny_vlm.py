"""A tiny random image-text-to-text model, in the folder format of transformers."""

from pathlib import Path

WORDS = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "Yes", "No", "USER", "ASSISTANT", ":", ".", "?")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT : {% endif %}"
)


def write_tiny_vlm(folder: Path) -> Path:
    """Write a LLaVA of 2 layers with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    from cogvideox.curation.labels.definitions import LABELS

    names = sorted({word for label in LABELS.values() for word in label.question.split()} - set(WORDS))
    words = {word: index for index, word in enumerate((*WORDS, *names))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyrefly: ignore
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    layers = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(hidden_size=32, image_size=28, patch_size=14, **layers)
    text = LlamaConfig(hidden_size=32, initializer_range=0.2, num_key_value_heads=2, vocab_size=len(words), **layers)
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
