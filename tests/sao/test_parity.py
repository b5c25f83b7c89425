"""Against the package itself: stable-audio-tools with random weights, through a checkpoint file as it writes them.

`make test` installs the package without its dependencies, which would replace torch and numpy; the few modules that it imports come
beside it (see the Makefile).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engines.lmdm.config import PRESETS
from engines.lmdm.model import LMDM
from engines.sao.checkpoint import added_layers, fill, fold_weight_norm, init_from, load_codec, load_dit
from engines.sao.conditioner import T5Text, load_seconds
from engines.sao.config import SMALL_CODEC, TextConfig
from engines.sao.oobleck import Autoencoder
from engines.sao.streaming import decode_stream, encode_stream
from tests.sao.rig import CONFIG, Source, altered, base_forward, enliven, separate_projections, write, write_t5

pytest.importorskip("stable_audio_tools", reason="stable-audio-tools is not installed; `make test` does it")

DIT_TOLERANCE, CODEC_TOLERANCE = 1e-5, 1e-4
FULL_SIZE = {"io_channels": 64, "embed_dim": 1024, "depth": 16, "num_heads": 8, "cond_token_dim": 768, "global_cond_dim": 768}


def configuration(**dit: int) -> dict[str, Any]:
    """CONFIG without words (their encoder would be downloaded), with the full size's rates and other sizes of the transformer."""
    config = altered("model/diffusion/cross_attention_cond_ids", ["seconds_total"])
    model = config["model"]
    model["conditioning"]["configs"] = model["conditioning"]["configs"][1:]
    model["diffusion"]["config"].update(dit)
    autoencoder = model["pretransform"]["config"]
    autoencoder["downsampling_ratio"] = 2048
    for half in ("encoder", "decoder"):
        autoencoder[half]["config"].update(channels=4, c_mults=[1, 1, 1, 2, 2], strides=[2, 4, 4, 8, 8])
    return config


def separate(package: nn.Module) -> None:
    """Turn the package's self-attention into its other form, in place."""
    for layer in package.model.model.transformer.layers:
        attention = layer.self_attn
        q, k, v = attention.to_qkv.weight.detach().chunk(3)
        width = len(q)
        attention.to_q, attention.to_kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        attention.to_q.weight.data, attention.to_kv.weight.data = q.clone(), torch.cat([k, v])
        del attention.to_qkv


@pytest.fixture(params=["to_qkv", "to_q + to_kv"], name="pair", scope="module")
def _pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The package's whole model, all weights random, and its state as a checkpoint."""
    from stable_audio_tools import create_model_from_config

    torch.manual_seed(7)  # the frequencies of the noise level are no parameters; beside others float32 itself may be off by 1.2e-5
    config = configuration(embed_dim=256, num_heads=2, depth=3)  # heads of 128 channels, as in the full size
    package = create_model_from_config(copy.deepcopy(config)).eval()
    enliven(package, seed=7)
    if request.param != "to_qkv":
        separate(package)
    assert not [name for name, p in package.named_parameters() if not p.any()]
    return package, write(tmp_path_factory.mktemp("checkpoint"), package.state_dict(), "model.ckpt", config)


@torch.no_grad()
def test_transformer(pair: tuple[nn.Module, Path]) -> None:
    package, path = pair
    model = init_from(path, PRESETS["tiny"]).eval()
    rng = torch.Generator().manual_seed(1)
    x, cross, pooled = (torch.randn(*shape, generator=rng) for shape in ((3, 8, 240), (3, 65, 24), (3, 24)))
    cross[:, 20:64] = 0  # pad rows
    t = torch.tensor([0.02, 0.5, 1.0])
    expected = package.model(x, t, cross_attn_cond=cross, global_cond=pooled)
    assert expected.std() > 0.1
    torch.testing.assert_close(base_forward(model, x, t, cross, pooled), expected, atol=DIT_TOLERANCE, rtol=0)


@torch.no_grad()
def test_autoencoder(pair: tuple[nn.Module, Path]) -> None:
    package, path = pair
    codec, theirs = load_codec(path), package.pretransform.model
    rng = torch.Generator().manual_seed(2)
    audio, latents = torch.randn(1, 2, 2048 * 40, generator=rng), torch.randn(1, 8, 40, generator=rng)
    mean, decoded = theirs.encoder(audio).chunk(2, 1)[0], package.pretransform.decode(latents)
    assert mean.std() > 0.02 and decoded.std() > 0.02
    torch.testing.assert_close(codec.encode(audio), mean, atol=CODEC_TOLERANCE, rtol=0)
    torch.testing.assert_close(codec.decode(latents), decoded, atol=CODEC_TOLERANCE, rtol=0)
    decode, encode = decode_stream(codec), encode_stream(codec)
    streamed = torch.cat([*(decode.push(piece) for piece in latents.split(10, -1)), decode.finish()], -1)
    torch.testing.assert_close(streamed, decoded, atol=CODEC_TOLERANCE, rtol=0)
    streamed = torch.cat([*(encode.push(piece) for piece in audio.split(2048 * 10, -1)), encode.finish()], -1)
    torch.testing.assert_close(streamed, mean, atol=CODEC_TOLERANCE, rtol=0)


@torch.no_grad()
def test_seconds(pair: tuple[nn.Module, Path]) -> None:
    package, path = pair
    seconds = [-3.0, 0.0, 11.0, 255.0, 400.0]
    expected: Tensor = package.conditioner.conditioners["seconds_total"](seconds)[0][:, 0]
    torch.testing.assert_close(load_seconds(path)(torch.tensor(seconds)), expected, atol=DIT_TOLERANCE, rtol=0)


def test_every_key_of_the_full_size() -> None:
    """382 names and shapes, without memory for them."""
    from stable_audio_tools.models.dit import DiffusionTransformer

    with torch.device("meta"):
        package = DiffusionTransformer(diffusion_objective="rectified_flow", attn_kwargs={"qk_norm": "ln"}, **FULL_SIZE)
        model = LMDM(PRESETS["sao_small"])
    theirs = {name: value.shape for name, value in package.state_dict().items()}
    ours = {name: value.shape for name, value in model.state_dict().items() if name not in added_layers(model)}
    assert ours == theirs
    assert len(ours) == 382


@pytest.mark.slow
@torch.no_grad()
def test_full_size_transformer() -> None:
    """4 GB. Random weights make outputs of size 4.5, to which the tolerance is relative; measured: 5.5e-6."""
    from stable_audio_tools.models.dit import DiffusionTransformer

    package = DiffusionTransformer(diffusion_objective="rectified_flow", attn_kwargs={"qk_norm": "ln"}, **FULL_SIZE).eval()
    enliven(package)
    model = LMDM(PRESETS["sao_small"]).eval()
    load_dit(model, separate_projections(package.state_dict()), Path("full size"))
    rng = torch.Generator().manual_seed(1)
    x, cross, pooled = (torch.randn(*shape, generator=rng) for shape in ((1, 64, 240), (1, 65, 768), (1, 768)))
    t = torch.tensor([0.6])
    expected = package(x, t, cross_attn_cond=cross, global_embed=pooled)
    size = expected.std()
    torch.testing.assert_close(base_forward(model, x, t, cross, pooled) / size, expected / size, atol=DIT_TOLERANCE, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_autoencoder() -> None:
    """Measured: 1.2e-5 encoding, 5.8e-6 decoding, the same in blocks."""
    from stable_audio_tools.models.autoencoders import OobleckDecoder, OobleckEncoder

    sizes = {"channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "use_snake": True}
    encoder, decoder = OobleckEncoder(latent_dim=128, **sizes).eval(), OobleckDecoder(latent_dim=64, final_tanh=False, **sizes).eval()
    codec = Autoencoder(SMALL_CODEC).eval()
    for theirs, ours in ((encoder, codec.encoder), (decoder, codec.decoder)):
        enliven(theirs, seed=3)
        fill(ours, fold_weight_norm(theirs.state_dict()), Path("full size"))
    audio, latents = torch.randn(1, 2, 2048 * 24) * 0.3, torch.randn(1, 64, 26)
    mean, decoded = encoder(audio)[:, :64], decoder(latents)
    decode, encode = decode_stream(codec), encode_stream(codec)
    for found, expected in (
        (codec.encode(audio), mean), (codec.decode(latents), decoded),
        (torch.cat([*(encode.push(piece) for piece in audio.split(20480, -1)), encode.finish()], -1), mean),
        (torch.cat([*(decode.push(piece) for piece in latents.split(10, -1)), decode.finish()], -1), decoded),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected, atol=CODEC_TOLERANCE, rtol=0)


@torch.no_grad()
def test_words(tmp_path: Path) -> None:
    """The package runs its text encoder in half precision."""
    from stable_audio_tools.models.conditioners import T5Conditioner

    write_t5(tmp_path, channels=768)
    package = T5Conditioner(768, "t5-base", max_length=64, model_path=str(tmp_path))
    ours = T5Text(TextConfig("t5-base", 64), 768, tmp_path)
    for words in ("warm cello", "a " * 100):
        expected = package([words], "cpu")[0][0].float()
        torch.testing.assert_close(ours(words), expected, atol=2e-2, rtol=0)


def test_the_rig_writes_what_the_package_writes(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """Other tests use checkpoints that were written without the package: same names, same shapes."""
    from stable_audio_tools import create_model_from_config

    config = altered("model/diffusion/cross_attention_cond_ids", ["seconds_total"])
    config["model"]["conditioning"]["configs"] = CONFIG["model"]["conditioning"]["configs"][1:]
    theirs = {name: value.shape for name, value in create_model_from_config(config).state_dict().items()}
    assert {name: value.shape for name, value in Source().tensors().items()} == theirs
