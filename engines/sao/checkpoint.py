"""Checkpoints of stable-audio-tools -> our modules, key by key; a key without a counterpart is refused, on either side.

A published checkpoint holds three parts: the diffusion transformer under `model.model.`, the autoencoder under
`pretransform.model.` and the conditioner of `seconds_total`. Two things are put into one form on the way: projections that a
post-trained checkpoint keeps apart (to_q, to_kv) become to_qkv, and weight norm (weight_g, weight_v) becomes the weight.

Runs in: fine-tuning and export.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.lmdm.config import PRESETS, ModelConfig
from engines.lmdm.model import LMDM
from engines.sao.config import CONFIG_FILE, CheckpointError, SaoConfig, lmdm_config, load_config
from engines.sao.oobleck import Autoencoder

Tensors = dict[str, Tensor]

DIT, CODEC, SECONDS = "model.model.", "pretransform.model.", "conditioner.conditioners.seconds_total."
# The parts of an LMDM that the base model has too; its other layers are new, and keep what they start with.
BASE_PARTS = frozenset(
    ("timestep_features", "to_timestep_embed", "to_cond_embed", "to_global_embed", "preprocess_conv", "postprocess_conv", "transformer")
)


def config_of(checkpoint: Path) -> SaoConfig:
    """The configuration that lies beside a checkpoint."""
    return load_config(checkpoint.with_name(CONFIG_FILE))


def read_tensors(path: Path) -> Tensors:
    """All tensors of a .safetensors or .ckpt file, in float32; nothing in the file is executed."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and is not loaded: convert it to .safetensors where you trust it") from error
    except Exception as error:  # each format has errors of its own
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    found = found.get("state_dict", found)
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items() if isinstance(value, Tensor)}


def part(tensors: Mapping[str, Tensor], prefix: str, source: Path) -> Tensors:
    """The tensors under one prefix, which is taken off."""
    strange = [name for name in tensors if not name.startswith((DIT, CODEC, SECONDS))]
    if strange:
        raise CheckpointError(f"{source} has {_list(strange)}, which no part of Stable Audio Open Small is called")
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{source} holds nothing under {prefix}")
    return found


def join_projections(tensors: Mapping[str, Tensor]) -> Tensors:
    """Self-attention's to_q and to_kv -> to_qkv (rows q, k, v)."""
    joined = dict(tensors)
    for name in tensors:
        stem, _, last = name.rpartition("to_q.weight")
        if stem.endswith("self_attn.") and not last and f"{stem}to_kv.weight" in joined:
            joined[f"{stem}to_qkv.weight"] = torch.cat([joined.pop(name), joined.pop(f"{stem}to_kv.weight")])
    return joined


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> Tensors:
    """weight_g and weight_v -> weight: each first-axis slice of v brought to the length g."""
    folded = dict(tensors)
    for name in tensors:
        stem = name.removesuffix("_v")
        if stem != name and f"{stem}_g" in folded:
            v, g = folded.pop(name), folded.pop(f"{stem}_g")
            folded[stem] = v * (g / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True))
    return folded


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, added: frozenset[str] = frozenset()) -> None:
    """Load `tensors` into `module`, all of them and nothing less; names in `added` stay as they are."""
    own = module.state_dict()
    wanted = own.keys() - added
    missing, unknown = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
    if unknown:
        raise CheckpointError(f"{source} has {_list(unknown)}, for which {type(module).__name__} has no place")
    if missing:
        raise CheckpointError(f"{source} lacks {_list(missing)} of {type(module).__name__}")
    for name in sorted(wanted):
        if tensors[name].shape != own[name].shape:
            found, expected = tuple(tensors[name].shape), tuple(own[name].shape)
            raise CheckpointError(f"{source} has {name} with shape {found}; by {CONFIG_FILE} it is {expected}")
    module.load_state_dict({**own, **tensors})


def _list(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def added_layers(model: LMDM) -> frozenset[str]:
    """Names of what an LMDM has and its base model has not."""
    return frozenset(name for name in model.state_dict() if name.split(".")[0] not in BASE_PARTS)


def load_dit(model: LMDM, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Weights of the base model, without prefix, in either form."""
    fill(model, join_projections(tensors), source, added_layers(model))


def load_codec(checkpoint: Path) -> Autoencoder:
    """The autoencoder of a checkpoint."""
    codec = Autoencoder(config_of(checkpoint).codec)
    fill(codec, fold_weight_norm(part(read_tensors(checkpoint), CODEC, checkpoint)), checkpoint)
    return codec.eval()


def init_from(checkpoint: Path, like: ModelConfig = PRESETS["sao_small"]) -> LMDM:
    """What fine-tuning starts from: an LMDM of the checkpoint's sizes and weights, with the blocks, context and conditions of `like`."""
    model = LMDM(lmdm_config(config_of(checkpoint), like))
    load_dit(model, part(read_tensors(checkpoint), DIT, checkpoint), checkpoint)
    return model
