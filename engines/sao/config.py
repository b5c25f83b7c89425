"""What a checkpoint of stable-audio-tools is, read from the model_config.json beside it. No torch.

Only what Stable Audio Open Small uses is understood: an option that would change a number and is not known here is refused, never
ignored. Runs in: fine-tuning and export.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.lmdm.config import PRESETS, ModelConfig

CONFIG_FILE = "model_config.json"
OBJECTIVES = ("rectified_flow", "rf_denoiser")  # both predict v = noise - x0; the second one was post-trained


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line that says why."""


@dataclass(frozen=True)
class DitSizes:
    """The diffusion transformer."""

    width: int
    layers: int
    heads: int
    condition_channels: int
    latent_channels: int


@dataclass(frozen=True)
class OobleckConfig:
    """The autoencoder."""

    latent_channels: int
    strides: tuple[int, ...]  # from audio to latents
    multiples: tuple[int, ...]  # of `channels`, per stride
    channels: int = 128
    audio_channels: int = 2
    final_tanh: bool = False
    scale: float = 1.0  # latents of the diffusion model are the autoencoder's divided by this

    @property
    def latent_frames(self) -> int:
        """Audio frames per latent."""
        return math.prod(self.strides)


@dataclass(frozen=True)
class SecondsRange:
    """`seconds_total` is told to the model as a share of this range."""

    low: float
    high: float


@dataclass(frozen=True)
class TextConfig:
    """The text encoder, whose weights are not in the checkpoint."""

    model: str
    tokens: int


@dataclass(frozen=True)
class SaoConfig:
    """One checkpoint."""

    sample_rate: int
    dit: DitSizes
    codec: OobleckConfig
    seconds: SecondsRange
    text: TextConfig | None

    @property
    def condition_tokens(self) -> int:
        """Text tokens and the one that tells the seconds."""
        return (self.text.tokens if self.text else 0) + 1


SMALL_CODEC = OobleckConfig(64, (2, 4, 4, 8, 8), (1, 2, 4, 8, 16))  # Stable Audio Open's


def lmdm_config(sao: SaoConfig, like: ModelConfig = PRESETS["sao_small"]) -> ModelConfig:
    """The LMDM that holds this checkpoint: its sizes, and the blocks, context and conditions of `like`."""
    d = sao.dit
    sizes = {"width": d.width, "layers": d.layers, "heads": d.heads, "latent_channels": d.latent_channels}
    return replace(like, text_channels=d.condition_channels, text_tokens=sao.condition_tokens, **sizes)


def load_config(path: Path) -> SaoConfig:
    """Read model_config.json."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: put the {CONFIG_FILE} that was published with the checkpoint beside it")
    try:
        return parse_config(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}: is it the configuration of a text-to-audio model of stable-audio-tools?") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def parse_config(facts: dict[str, Any]) -> SaoConfig:
    """The content of model_config.json; KeyError where something is missing."""
    model, diffusion = facts["model"], facts["model"]["diffusion"]
    _expect("diffusion type", diffusion["type"], ["dit"])
    _expect("diffusion_objective", diffusion["diffusion_objective"], OBJECTIVES)
    seconds, text = _conditioners(model["conditioning"]["configs"])
    cross = [name for name in ("prompt", "seconds_total") if text or name != "prompt"]
    _expect("cross_attention_cond_ids", diffusion["cross_attention_cond_ids"], [cross])
    _expect("global_cond_ids", diffusion["global_cond_ids"], [["seconds_total"]])
    for name in ("input_concat_ids", "prepend_cond_ids", "local_add_cond_ids", "modular_local_cond_configs"):
        _expect(name, diffusion.get(name, []), [[]])
    return SaoConfig(facts["sample_rate"], _dit(diffusion["config"]), _codec(model["pretransform"]), seconds, text)


def _expect(name: str, found: Any, known: Iterable[Any]) -> None:
    known = list(known)
    if found not in known:
        raise CheckpointError(f"{name} is {found!r}; only {' or '.join(repr(k) for k in known)} can be loaded")


def _options(where: str, given: dict[str, Any], sizes: Iterable[str], fixed: dict[str, Any]) -> None:
    """Refuse options that are unknown, or known but other than what the code here does."""
    for name in given.keys() - set(sizes):
        if name not in fixed:
            raise CheckpointError(f"{where} has the option {name}, which is not known here")
        _expect(f"{where} {name}", given[name], [fixed[name]])


_DIT_FIXED = {
    "transformer_type": "continuous_transformer", "attn_kwargs": {"qk_norm": "ln"}, "global_cond_type": "prepend",
    "timestep_cond_type": "global", "timestep_features_type": "learned", "timestep_features_dim": 256, "patch_size": 1,
    "project_cond_tokens": True, "project_global_cond": True, "input_concat_dim": 0, "prepend_cond_dim": 0, "num_memory_tokens": 0,
}  # fmt: skip


def _dit(given: dict[str, Any]) -> DitSizes:
    sizes = ("embed_dim", "depth", "num_heads", "cond_token_dim", "io_channels")
    _options("the DiT", given, (*sizes, "global_cond_dim"), _DIT_FIXED)
    _expect("the DiT attn_kwargs", given.get("attn_kwargs"), [_DIT_FIXED["attn_kwargs"]])  # not the default of the package
    _expect("the DiT global_cond_dim", given["global_cond_dim"], [given["cond_token_dim"]])
    return DitSizes(*(given[name] for name in sizes))

_OOBLECK_FIXED = {"use_snake": True, "antialias_activation": False, "use_nearest_upsample": False}


def _codec(given: dict[str, Any]) -> OobleckConfig:
    _expect("pretransform type", given["type"], ["autoencoder"])
    config = given["config"]
    encoder, decoder = config["encoder"], config["decoder"]
    for half, channels in ((encoder, "in_channels"), (decoder, "out_channels")):
        _expect("the autoencoder", half["type"], ["oobleck"])
        sizes = ("channels", "c_mults", "strides", "latent_dim", channels, "final_tanh")
        _options("the autoencoder", half["config"], sizes, _OOBLECK_FIXED)
        _expect("the autoencoder use_snake", half["config"].get("use_snake"), [True])  # not the default of the package
    _expect("the bottleneck", config["bottleneck"]["type"], ["vae"])
    e, d = encoder["config"], decoder["config"]
    for name in ("channels", "c_mults", "strides"):
        _expect(f"the encoder's {name}", e[name], [d[name]])
    _expect("the encoder's latent_dim", e["latent_dim"], [2 * d["latent_dim"]])
    if any(stride % 2 for stride in d["strides"]):
        raise CheckpointError(f"the autoencoder has an odd stride among {d['strides']}: its pieces would not line up")
    return OobleckConfig(
        d["latent_dim"], tuple(d["strides"]), tuple(d["c_mults"]), d["channels"], d["out_channels"],
        d.get("final_tanh", True), given.get("scale", 1.0),
    )  # fmt: skip


def _conditioners(configs: list[dict[str, Any]]) -> tuple[SecondsRange, TextConfig | None]:
    by_name = {c["id"]: c for c in configs}
    _options("the conditioning", by_name, ("prompt", "seconds_total"), {})
    seconds, prompt = by_name["seconds_total"], by_name.get("prompt")
    _expect("the seconds_total conditioner", seconds["type"], ["number"])
    _options("seconds_total", seconds["config"], ("min_val", "max_val"), {"fourier_features_type": "learned"})
    found = SecondsRange(seconds["config"].get("min_val", 0), seconds["config"].get("max_val", 1))
    if prompt is None:
        return found, None
    _expect("the prompt conditioner", prompt["type"], ["t5"])
    fixed = {"padding_mode": "zero", "project_out": False, "enable_grad": False}
    _options("the prompt", prompt["config"], ("t5_model_name", "max_length"), fixed)
    return found, TextConfig(prompt["config"].get("t5_model_name", "t5-base"), prompt["config"].get("max_length", 128))
