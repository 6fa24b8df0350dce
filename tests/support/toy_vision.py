"""A model that sees, made in seconds: the toy language model behind a random vision tower (Idefics3, as SmolVLM is).

It has no idea what it looks at, but other pixels are other embeddings to it: enough to prove that pictures reach the
model, each in its place. Large pictures are cut into tiles, so that how many tokens one takes depends on its size. One
of the few families that vLLM loads without torchvision, which has no build for every CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.toy import make_toy_model

IMAGE = "<image>"
#: Of a picture that is not cut into tiles: 4 for what is seen, 3 around them.
SMALL_IMAGE_TOKENS = 7

#: Takes contents as lists of parts, as the templates of most models that see do.
PARTS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_TOKENS = ["<fake_token_around_image>", IMAGE, "<end_of_utterance>", "<global-img>", *_TILES]

_HIDDEN = 64
_VISION = {
    "model_type": "idefics3_vision",
    "hidden_size": _HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
_SCALE = 2


def make_toy_vision_model(directory: Path, default_model: Path, *, template: str | None = PARTS_TEMPLATE) -> Path:
    """Write it to ``directory``; ``template`` None keeps the sample model's, whose contents are texts."""
    if (directory / "config.json").is_file():
        return directory
    language = make_toy_model(directory.parent / f"{directory.name}-language", default_model)
    directory.mkdir(parents=True, exist_ok=True)
    image_id, size = _write_tokenizer(directory, language, template)
    text = json.loads((language / "config.json").read_text("utf-8")) | {"vocab_size": -(-size // 64) * 64}
    _write_weights(directory, language, text)
    _write_processor(directory)
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": image_id,
        "scale_factor": _SCALE,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "text_config": text,
        "vision_config": _VISION,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return directory


def _write_tokenizer(directory: Path, language: Path, template: str | None) -> tuple[int, int]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(language)
    tokenizer.add_tokens(_TOKENS, special_tokens=True)
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return int(tokenizer.convert_tokens_to_ids(IMAGE)), len(tokenizer)


def _write_weights(directory: Path, language: Path, text: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

    torch.manual_seed(0)
    given = load_file(language / "model.safetensors")
    weights = {f"model.text_model.{name.removeprefix('model.')}": each for name, each in given.items()}
    for name in weights:
        if "_proj." in name:
            weights[name] *= 8  # what a token is changed by its context must outweigh what it is by itself
    embeddings = weights["model.text_model.embed_tokens.weight"]
    more = torch.normal(0.0, 0.02, (text["vocab_size"] - embeddings.shape[0], embeddings.shape[1]))
    weights["model.text_model.embed_tokens.weight"] = torch.cat([embeddings, more.to(embeddings.dtype)])
    vision = Idefics3VisionTransformer(Idefics3VisionConfig(**_VISION)).state_dict()
    weights |= {f"model.vision_model.{name}": each for name, each in vision.items() if "position_ids" not in name}
    # Wide enough that two pictures are as different to the model as two words.
    shape = (text["hidden_size"], _HIDDEN * _SCALE**2)
    weights["model.connector.modality_projection.proj.weight"] = torch.normal(0.0, 0.3, shape)
    save_file(
        {name: each.to(torch.bfloat16).contiguous() for name, each in weights.items()},
        directory / "model.safetensors",
        {"format": "pt"},
    )


def _write_processor(directory: Path) -> None:
    half = [0.5, 0.5, 0.5]
    pictures = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": 112},
        "resample": 1,
        "do_image_splitting": True,
        "max_image_size": {"longest_edge": 56},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
        "do_pad": True,
        "processor_class": "Idefics3Processor",
    }
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": 4}
    (directory / "preprocessor_config.json").write_text(json.dumps(pictures), "utf-8")
    (directory / "processor_config.json").write_text(json.dumps(processor), "utf-8")
