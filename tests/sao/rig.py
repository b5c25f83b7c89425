"""A tiny checkpoint in the layout that stable-audio-tools publishes, and the base model's own forward pass."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engines.lmdm.config import PRESETS
from engines.lmdm.model import LMDM
from engines.sao.checkpoint import BASE_PARTS, CODEC, DIT, SECONDS
from engines.sao.conditioner import SecondsTotal
from engines.sao.config import SaoConfig, lmdm_config, parse_config
from engines.sao.oobleck import Autoencoder

_OOBLECK = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
# As published with Stable Audio Open Small, with small numbers.
CONFIG: dict[str, Any] = {
    "model_type": "diffusion_cond",
    "sample_size": 4096,
    "sample_rate": 44100,
    "audio_channels": 2,
    "model": {
        "pretransform": {
            "type": "autoencoder",
            "iterate_batch": True,
            "config": {
                "encoder": {"type": "oobleck", "requires_grad": False, "config": {"in_channels": 2, "latent_dim": 16, **_OOBLECK}},
                "decoder": {"type": "oobleck", "config": {"out_channels": 2, "latent_dim": 8, "final_tanh": False, **_OOBLECK}},
                "bottleneck": {"type": "vae"},
                "latent_dim": 8,
                "downsampling_ratio": 8,
                "io_channels": 2,
            },
        },
        "conditioning": {
            "configs": [
                {"id": "prompt", "type": "t5", "config": {"t5_model_name": "t5-base", "max_length": 4}},
                {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 256}},
            ],
            "cond_dim": 24,
        },
        "diffusion": {
            "cross_attention_cond_ids": ["prompt", "seconds_total"],
            "global_cond_ids": ["seconds_total"],
            "type": "dit",
            "diffusion_objective": "rectified_flow",
            "config": {
                "io_channels": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "cond_token_dim": 24, "global_cond_dim": 24,
                "transformer_type": "continuous_transformer", "attn_kwargs": {"qk_norm": "ln"},
            },
        },
        "io_channels": 8,
    },
}  # fmt: skip


def altered(path: str, value: Any) -> dict[str, Any]:
    """CONFIG with one entry changed or added; path: names and list places between slashes."""
    config = copy.deepcopy(CONFIG)
    *names, last = [int(name) if name.isdigit() else name for name in path.split("/")]
    place: Any = config
    for name in names:
        place = place[name]
    place[last] = value
    return config


def enliven(module: nn.Module, seed: int = 0) -> None:
    """Random weights everywhere, with outputs of about unit size: stock initialisation leaves whole branches at zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = 1.0 if parameter.ndim < 2 and ("norm" in name or name.endswith("weight_g")) else 0.0
            spread = 0.1 if parameter.ndim < 2 else (0.7 if parameter.ndim == 3 else 1.0) * parameter[0].numel() ** -0.5
            parameter.copy_(gain + spread * torch.randn(parameter.shape, generator=rng))


def separate_projections(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other published form: to_q and to_kv."""
    found = {}
    for name, value in tensors.items():
        if name.endswith("to_qkv.weight"):
            stem, width = name.removesuffix("to_qkv.weight"), len(value) // 3
            found |= {f"{stem}to_q.weight": value[:width].clone(), f"{stem}to_kv.weight": value[width:].clone()}
        else:
            found[name] = value
    return found


def with_weight_norm(codec: Autoencoder) -> dict[str, Tensor]:
    """State of the autoencoder as it is published: direction and length of each weight."""
    found = {}
    for name, value in codec.state_dict().items():
        if name.endswith(".weight"):
            length = value.flatten(1).norm(dim=1)[:, None, None]
            found |= {f"{name}_g": length, f"{name}_v": value * 3}  # the length of v says nothing
        else:
            found[name] = value
    return found


class Source:
    """A tiny checkpoint and the modules that its numbers came from."""

    def __init__(self, seed: int = 0, config: dict[str, Any] = CONFIG) -> None:
        self.config: SaoConfig = parse_config(config)
        self.dit = LMDM(lmdm_config(self.config, PRESETS["tiny"]))
        self.codec = Autoencoder(self.config.codec)
        self.seconds = SecondsTotal(self.config.seconds, self.config.dit.condition_channels)
        for module in (self.dit, self.codec, self.seconds):
            enliven(module.eval(), seed)

    def tensors(self) -> dict[str, Tensor]:
        base = {name: value for name, value in self.dit.state_dict().items() if name.split(".")[0] in BASE_PARTS}
        parts = ((DIT, base), (CODEC, with_weight_norm(self.codec)), (SECONDS, self.seconds.state_dict()))
        return {prefix + name: value.contiguous() for prefix, tensors in parts for name, value in tensors.items()}


def write(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors", config: dict[str, Any] = CONFIG) -> Path:
    """Put a checkpoint and its configuration into a folder."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors}, path)
    (folder / "model_config.json").write_text(json.dumps(config))
    return path


@torch.no_grad()
def base_forward(model: LMDM, x: Tensor, t: Tensor, cross: Tensor, pooled: Tensor) -> Tensor:
    """Stable Audio Open's own pass: x (B, C, T) -> v (B, C, T). The global token comes first, and everything sees everything."""
    noisy, level = x.transpose(1, 2), model.global_tokens(t, pooled)[:, None]
    tokens = torch.cat([level, model.target_tokens(noisy)], 1)
    rotation = model.transformer.rotary_pos_emb(torch.arange(tokens.shape[1]))
    hidden, _ = model.transformer(tokens, rotation, None, None, model.text(cross), clean=0)
    return model.velocity(hidden[:, 1:], noisy, level).transpose(1, 2)


def write_t5(folder: Path, channels: int) -> None:
    """A tiny text encoder with random weights, and a tokenizer of a few words, as they lie on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = ["<pad>", "</s>", "<unk>", "a", "warm", "cello", "bright", "flute"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": channels, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": len(words)}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(folder)
