"""Loading: both file formats, both forms, every part; and each way in which a checkpoint can be wrong, in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.lmdm.config import PRESETS
from engines.lmdm.model import LMDM
from engines.sao.checkpoint import CODEC, DIT, SECONDS, added_layers, init_from, load_codec
from engines.sao.conditioner import load_seconds
from engines.sao.config import CheckpointError, lmdm_config, load_config, parse_config
from tests.sao.rig import CONFIG, Source, altered, separate_projections, write

LIKE = PRESETS["tiny"]
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(name="source", scope="module")
def _source() -> Source:
    return Source()


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("form", [dict, separate_projections], ids=["to_qkv", "to_q + to_kv"])
def test_every_part_arrives(source: Source, tmp_path: Path, name: str, form: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = write(tmp_path, form(source.tensors()), name)
    torch.manual_seed(5)
    model = init_from(path, LIKE)
    torch.manual_seed(5)
    untouched = LMDM(model.config).state_dict()
    assert added_layers(model) == {"to_input_add_embed.weight", "to_sketch_embed.weight", "to_skip.weight", "to_skip.bias"}
    for key, value in model.state_dict().items():
        assert torch.equal(value, (untouched if key in added_layers(model) else source.dit.state_dict())[key]), key
    for key, value in load_codec(path).state_dict().items():
        torch.testing.assert_close(value, source.codec.state_dict()[key])
    for key, value in load_seconds(path).state_dict().items():
        assert torch.equal(value, source.seconds.state_dict()[key])


def test_half_precision_becomes_single(source: Source, tmp_path: Path) -> None:
    path = write(tmp_path, {name: value.half() for name, value in source.tensors().items()})
    model = init_from(path, LIKE)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def shrink(name: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[name][:-1].clone()})


WRONG: dict[str, tuple[Change, str]] = {
    "a key too few": (lambda t: t.pop(f"{DIT}transformer.project_in.weight"), "lacks transformer.project_in.weight"),
    "a key too many": (lambda t: t.update({f"{DIT}transformer.memory_tokens": torch.zeros(2)}), "has transformer.memory_tokens"),
    "a wrong shape": (shrink(f"{DIT}to_cond_embed.2.weight"), "with shape (63, 64); by model_config.json it is (64, 64)"),
    "no self-attention": (lambda t: t.pop(f"{DIT}transformer.layers.1.self_attn.to_qkv.weight"), "lacks transformer.layers.1.self_attn"),
    "an unknown part": (lambda t: t.update({"diffusion_ema.step": torch.zeros(1)}), "has diffusion_ema.step, which no part"),
    "an LMDM's own layer": (lambda t: t.update({f"{DIT}to_sketch_embed.weight": torch.zeros(1)}), "has to_sketch_embed.weight"),
    "no transformer": (lambda t: [t.pop(name) for name in list(t) if name.startswith(DIT)], "holds nothing under model.model."),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_a_wrong_transformer_is_refused_in_one_line(source: Source, tmp_path: Path, change: Change, message: str) -> None:
    tensors = source.tensors()
    change(tensors)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        init_from(write(tmp_path, tensors), LIKE)
    assert "\n" not in str(caught.value)


def test_a_wrong_autoencoder_or_conditioner_is_refused(source: Source, tmp_path: Path) -> None:
    tensors = source.tensors()
    del tensors[f"{CODEC}decoder.layers.0.weight_g"], tensors[f"{SECONDS}embedder.embedding.1.bias"]
    path = write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"has decoder\.layers\.0\.weight_v, for which"):
        load_codec(path)
    with pytest.raises(CheckpointError, match=r"lacks embedder\.embedding\.1\.bias"):
        load_seconds(path)


class Trap:
    """Would leave a trace if it was unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_nothing_in_a_file_is_executed(source: Source, tmp_path: Path) -> None:
    path = write(tmp_path, source.tensors(), "model.ckpt")
    torch.save({"state_dict": source.tensors(), "callbacks": Trap(tmp_path / "trace")}, path)
    with pytest.raises(CheckpointError, match="more than tensors"):
        init_from(path, LIKE)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_broken_or_absent_file_is_named(source: Source, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, source.tensors(), name)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=name):
        init_from(path, LIKE)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        init_from(path, LIKE)


def test_sizes_come_from_the_configuration() -> None:
    sao = parse_config(CONFIG)
    made = lmdm_config(sao)
    assert (made.width, made.layers, made.heads, made.text_channels, made.text_tokens, made.latent_channels) == (64, 2, 2, 24, 5, 8)
    assert (made.block_latents, made.context_blocks) == (10, 23)
    assert sao.codec.latent_frames == 8
    assert sao.seconds.high == 256


UNKNOWN: dict[str, tuple[str, Any]] = {
    "v objective (Stable Audio Open 1.0)": ("model/diffusion/diffusion_objective", "v"),
    "no norm of queries and keys": ("model/diffusion/config/attn_kwargs", {}),
    "adaLN": ("model/diffusion/config/global_cond_type", "adaLN"),
    "an option of tomorrow": ("model/diffusion/config/sparkle", 1),
    "inpainting inputs": ("model/diffusion/local_add_cond_ids", ["inpaint_mask"]),
    "another autoencoder": ("model/pretransform/config/encoder/type", "dac"),
    "ELU": ("model/pretransform/config/decoder/config/use_snake", False),
    "odd strides": ("model/pretransform/config/decoder/config/strides", [2, 5]),
    "another text encoder": ("model/conditioning/configs/0/type", "t5gemma"),
    "an expo number": ("model/conditioning/configs/1/config/fourier_features_type", "expo"),
}


@pytest.mark.parametrize("path, value", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_is_refused(path: str, value: Any) -> None:
    with pytest.raises(CheckpointError):
        parse_config(altered(path, value))


def test_a_missing_or_foreign_configuration_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "model_config.json"
    with pytest.raises(CheckpointError, match=r"is missing: put the model_config\.json"):
        load_config(path)
    for content, message in (("{", "is not JSON"), (json.dumps({"model": {}}), "lacks 'diffusion'")):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            load_config(path)
