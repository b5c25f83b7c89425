"""The autoencoder block by block is the autoencoder at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.sao.config import SMALL_CODEC, OobleckConfig
from engines.sao.oobleck import Autoencoder, Decoder, Encoder, reach
from engines.sao.streaming import Overlapped, decode_stream, encode_stream, look_ahead_frames
from tests.sao.rig import enliven

TOLERANCE = 1e-4
NARROW = OobleckConfig(8, SMALL_CODEC.strides, (1, 1, 1, 2, 2), channels=4)  # the full size's rates with few channels


@pytest.fixture(name="codec", scope="module")
def _codec() -> Autoencoder:
    codec = Autoencoder(NARROW).eval()
    enliven(codec)
    return codec


def streamed(stream: Overlapped, x: Tensor, sizes: list[int]) -> Tensor:
    """Push pieces of so many latents, then finish."""
    made, start = [], 0
    for size in sizes:
        end = start + size * stream.in_per_latent
        made.append(stream.push(x[..., start:end]))
        start = end
    assert start == x.shape[-1]
    return torch.cat([*made, stream.finish()], -1)


def test_reach_of_the_full_size() -> None:
    with torch.device("meta"):
        encoder, decoder = Encoder(SMALL_CODEC), Decoder(SMALL_CODEC)
    assert reach(encoder, 2048) == (8, 8)
    assert reach(decoder, 2048) == (10, 10)


@pytest.mark.parametrize("sizes", [[10] * 6, [48, 12], [1] * 60, [3, 40, 7, 10]], ids=["10", "48", "1", "uneven"])
@torch.no_grad()
def test_decoding_in_blocks_is_exact(codec: Autoencoder, sizes: list[int]) -> None:
    latents = torch.randn(1, 8, 60, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(streamed(decode_stream(codec), latents, sizes), codec.decode(latents), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sizes", [[10] * 4, [1] * 40, [3, 25, 12]], ids=["10", "1", "uneven"])
@torch.no_grad()
def test_encoding_in_blocks_is_exact(codec: Autoencoder, sizes: list[int]) -> None:
    audio = torch.randn(1, 2, 40 * 2048, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(streamed(encode_stream(codec), audio, sizes), codec.encode(audio), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_look_ahead_is_what_is_said(codec: Autoencoder) -> None:
    """Blocks come out whole, later by the look-ahead and by no more; then each push gives as much as it takes."""
    decode, encode = decode_stream(codec), encode_stream(codec)
    assert (look_ahead_frames(encode), look_ahead_frames(decode)) == (8 * 2048, 10 * 2048)
    latents, audio = torch.randn(1, 8, 10), torch.randn(1, 2, 10 * 2048)
    assert [decode.push(latents).shape[-1] // 2048 for _ in range(4)] == [0, 10, 10, 10]
    assert [encode.push(audio).shape[-1] for _ in range(4)] == [2, 10, 10, 10]
    assert decode.held is not None and decode.held.shape[-1] == 20  # carried: 10 on the left, 10 that wait


@torch.no_grad()
def test_less_look_ahead_is_nearly_right(codec: Autoencoder) -> None:
    """Cutting the look-ahead trades an error near the edges of blocks for latency."""
    latents = torch.randn(1, 8, 60, generator=torch.Generator().manual_seed(3))
    whole = codec.decode(latents)
    errors = [float((streamed(decode_stream(codec, limit), latents, [10] * 6) - whole).pow(2).mean().sqrt()) for limit in (0, 4, 8, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < TOLERANCE < errors[0]


@torch.no_grad()
def test_a_stream_starts_anew_after_its_end(codec: Autoencoder) -> None:
    latents = torch.randn(1, 8, 30)
    stream = decode_stream(codec)
    first = streamed(stream, latents, [10] * 3)
    assert torch.equal(first, streamed(stream, latents, [10] * 3))


@torch.no_grad()
def test_nothing_beyond_the_reach_matters(codec: Autoencoder) -> None:
    """One latent further on each side changes nothing; the outermost within does."""
    latents = torch.zeros(1, 8, 41)
    middle = slice(20 * 2048, 21 * 2048)
    before = codec.decode(latents)[..., middle]
    for place, counts in ((9, False), (31, False), (10, True), (30, True)):
        changed = latents.clone()
        changed[..., place] = 100.0
        assert bool((codec.decode(changed)[..., middle] != before).any()) is counts, place
