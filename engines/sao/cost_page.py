"""The page about the full size: tables of what engines.sao.cost measured, and what follows from them for devices.

Runs in: export, by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from engines.lmdm.config import PRESETS, ModelConfig
from engines.lmdm.model import LMDM
from engines.sao.conditioner import SecondsTotal
from engines.sao.config import SMALL_CODEC, SecondsRange
from engines.sao.oobleck import Autoencoder, Decoder, Encoder, ResidualUnit, reach

STEPS = (1, 2, 4, 8)
T5_PARAMETERS = 109_628_544  # encoder of t5-base, as transformers counts it
FRAME_MS = 1 / 44.1


class Cost(Protocol):
    """What engines.sao.cost knows of one pass."""

    @property
    def shape(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def gmac(self) -> float: ...
    @property
    def ms(self) -> float | None: ...
    @property
    def working_mb(self) -> float | None: ...
    @property
    def block_ms(self) -> float: ...


@dataclass(frozen=True)
class Device:
    """What its maker says; dense float16 with float32 sums."""

    name: str
    memory_gb: int
    gb_per_second: float
    tera_operations: float


# A quarter of the advertised sparse INT8 rate, and for the laptop an eighth, because GeForce halves its rate with float32 sums.
DEVICES = (
    Device("Jetson Orin Nano Super, 8 GB", 8, 102.0, 16.7),
    Device("Jetson AGX Orin, 64 GB", 64, 204.8, 42.5),
    Device("laptop with RTX 4060, 45 W", 8, 256.0, 18.7),
)

Costs = dict[tuple[str, str], Cost]
WAYS = {
    "uncached": lambda k: ["outpaint"] * k,
    "enc-dec": lambda k: ["context", *["step"] * k],
    "block-causal": lambda k: ["first", *["step"] * (k - 1)],
}
MEANING = {
    "first": "first step of a block, the block before committed with it",
    "step": "every further step",
    "commit": "a heard block put into the context without an answer",
    "context": "enc-dec: the whole context, once per block",
    "outpaint": "no cache: the whole window, every step",
    "encode": "Oobleck: the block and 8 latents on each side",
    "decode": "Oobleck: the block and 10 latents on each side",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def megabytes(count: int, width: int) -> str:
    return f"{count * width / 1e6:,.0f}"


def weights() -> str:
    """Parts and their sizes."""
    with torch.device("meta"):
        model, codec = LMDM(PRESETS["sao_small"]), Autoencoder(SMALL_CODEC)
        seconds = SecondsTotal(SecondsRange(0, 256), 768)
    parts = {
        "diffusion transformer, with the layers that an LMDM adds": parameters(model),
        "Oobleck encoder": parameters(codec.encoder), "Oobleck decoder": parameters(codec.decoder),
        "seconds_total conditioner": parameters(seconds), "T5-base encoder (where prompts are written, not on a device)": T5_PARAMETERS,
    }  # fmt: skip
    rows = [[name, f"{count:,}", megabytes(count, 4), megabytes(count, 2)] for name, count in parts.items()]
    return table(["part", "parameters", "MB float32", "MB float16"], rows)


def cache_numbers(config: ModelConfig, tokens: int) -> int:
    """Keys and values of `tokens` in all layers."""
    return 2 * config.layers * config.width * tokens


def caches() -> str:
    config = PRESETS["sao_small"]
    rows = {"context of 230 latents": 230, "context of 192 latents": 192, "one prompt (64 text tokens and the seconds)": config.text_tokens}
    found = [[name, megabytes(n := cache_numbers(config, tokens), 4), megabytes(n, 2)] for name, tokens in rows.items()]
    return table(["keys and values", "MB float32", "MB float16"], found)


def passes(costs: Costs) -> str:
    rows = []
    for c in costs.values():
        run = ["not run"] * 3 if c.ms is None else [f"{c.ms:,.0f}", f"{c.working_mb:,.0f}", f"{c.ms / c.block_ms:.2f}"]
        rows.append([f"{c.shape} {c.name}: {MEANING[c.name]}", f"{c.gmac:.1f}", *run])
    return table(["pass", "10^9 multiply-adds", "CPU ms", "working MB", "share of the block"], rows)


def blocks(costs: Costs, shape: str) -> str:
    """A whole block in each way, without the codec."""
    rows, last = [], costs[shape, "step"].block_ms
    times = {name: cost.ms for (at, name), cost in costs.items() if at == shape and cost.ms is not None}
    if any(name not in times for name in ("first", "step", "context", "outpaint")):
        return f"{shape}: not every pass was run."
    for way, names in WAYS.items():
        totals = [sum(times[name] for name in names(k)) for k in STEPS]
        uncached = [times["outpaint"] * k for k in STEPS]
        rows.append([way, *(f"{t:,.0f} ({u / t:.1f}x), {t / last:.2f}" for t, u in zip(totals, uncached, strict=True))])
    return table([f"{shape}, {last:.0f} ms of sound", *(f"K = {k}" for k in STEPS)], rows)


def look_ahead() -> str:
    with torch.device("meta"):
        encoder, decoder = reach(Encoder(SMALL_CODEC), 2048), reach(Decoder(SMALL_CODEC), 2048)
    rows = []
    for name, sides in (("encode", encoder), ("decode", decoder)):
        frames = sides.right * SMALL_CODEC.latent_frames
        rows.append([name, f"{sides.left} + {sides.right}", f"{frames:,}", f"{frames * FRAME_MS:.0f}"])
    return table(["", "latents on the left + right", "look-ahead, frames", "ms"], rows)


def delays(costs: Costs) -> str:
    """The least delay between a note and its answer, computing left out."""
    rows = []
    for shape in ("230/10", "192/48"):
        block, decode = costs[shape, "step"].block_ms, 10 * SMALL_CODEC.latent_frames * FRAME_MS
        encode = 8 * SMALL_CODEC.latent_frames * FRAME_MS
        rows.append([shape, f"{block:.0f}", f"{block + decode:.0f}", f"{block + decode + encode:.0f}"])
    return table(["ms, before any computing", "the block alone", "+ decoding", "+ encoding what was heard"], rows)


def bound_ms(device: Device, gmac: float, megabytes_read: float) -> float:
    """The later of two: all operations done, all weights and caches read once."""
    return max(gmac * 2 / device.tera_operations, megabytes_read / device.gb_per_second)


def activations(half: nn.Module, x: Tensor) -> int:
    """Numbers that all convolutions, snakes and sums of `half` write, one after the other."""
    written: list[int] = []
    layers = [layer for layer in half.modules() if isinstance(layer, ResidualUnit) or not list(layer.children())]
    hooks = [layer.register_forward_hook(lambda _m, _i, out: written.append(out.numel())) for layer in layers]
    half(x)
    for hook in hooks:
        hook.remove()
    return sum(written)


def decoding_mb(block_latents: int) -> float:
    """Read and written in float16 to decode one block with its overlap: weights once, each layer's output written and read once."""
    with torch.device("meta"), torch.no_grad():
        half = Decoder(SMALL_CODEC)
        latents = block_latents + sum(reach(half, SMALL_CODEC.latent_frames))
        return (parameters(half) + 2 * activations(half, torch.empty(1, SMALL_CODEC.latent_channels, latents))) * 2 / 1e6


def derived(costs: Costs, k: int = 4) -> str:
    """Bounds of a block-causal block with k steps, decoding included."""
    config = PRESETS["sao_small"]
    with torch.device("meta"):
        model = parameters(LMDM(config))
    rows = []
    for device in DEVICES:
        cells = []
        for shape, context, block_latents in (("230/10", 230, 10), ("192/48", 192, 48)):
            read = (model + cache_numbers(config, context + config.text_tokens)) * 2 / 1e6
            denoise = sum(bound_ms(device, costs[shape, name].gmac, read) for name in WAYS["block-causal"](k))
            decode = bound_ms(device, costs[shape, "decode"].gmac, decoding_mb(block_latents))
            block = costs[shape, "step"].block_ms
            cells.append(f"{denoise:.0f} + {decode:.0f} of {block:,.0f} ms ({(denoise + decode) / block:.0%})")
        rows.append([device.name, f"{device.memory_gb}", f"{device.gb_per_second:g}", f"{device.tera_operations:g}", *cells])
    head = ["device", "GB", "GB/s", "10^12 operations/s", "230/10, K = 4: denoise + decode", "192/48, K = 4: denoise + decode"]
    return table(head, rows)


def cpu_sentence(costs: Costs) -> str:
    first, decode, block = costs["230/10", "first"].ms, costs["230/10", "decode"].ms, costs["230/10", "step"].block_ms
    if first is None or decode is None:
        return ""
    return (
        f"One core of this CPU takes {first / block:.2f} of a 230/10 block for a single denoising step and {decode / block:.1f} of it to "
        "decode: the full size is not for a CPU, whatever the caching, because the autoencoder alone is too slow."
    )


def page(costs: Sequence[Cost]) -> str:
    """Markdown."""
    by_name = {(c.shape, c.name): c for c in costs}
    return PAGE.format(
        weights=weights(), caches=caches(), passes=passes(by_name), short=blocks(by_name, "230/10"), long=blocks(by_name, "192/48"),
        look_ahead=look_ahead(), delays=delays(by_name), derived=derived(by_name), cpu=cpu_sentence(by_name),
    )  # fmt: skip


PAGE = """# The full size: Stable Audio Open Small

The reference engine has the layout of Stable Audio Open Small at small size. This page says how the full size gets in, what of that is
proved, what it costs, and where it can run. Written by `python -m engines.sao.cost --out docs/full-size.md`. What training it costs is
in [training-at-scale.md](training-at-scale.md).

**No weights of Stable Audio are in this repository, none were available here, and nothing on this page was heard.** Everything was
measured with random weights of the right size, which cost what trained ones cost.

## Getting it in

Put `model.safetensors` (or `model.ckpt`) and `model_config.json` of `stabilityai/stable-audio-open-small` into one folder; mind their
licence.

    python -m engines.sao.latents --checkpoint FOLDER/model.safetensors --text T5_FOLDER --out build/sao-data
    python -m engines.train.pretrain --init-from FOLDER/model.safetensors --preset sao_small --data build/sao-data

The first command renders the corpus and keeps it as Oobleck latents and T5 words; the second fine-tunes, at the paper's learning rate. With
`--dry-run` the second needs no data and says what a run would cost.

`--init-from` takes the sizes from model_config.json and the weights of the transformer by their names; what an LMDM adds (the layers
through which clean latents, partner and sketch enter) starts from its usual initial values. Both published forms are read: attention
as `to_qkv`, and as `to_q` and `to_kv`. A name that has no counterpart, on either side, a wrong shape, or an option in the configuration
that is not known is refused with one line. Nothing in a file is executed.

Words go through T5-base, which is not in the checkpoint: `hf download t5-base` where there is a network, or a folder with its
`config.json`, `model.safetensors` and `tokenizer.json`. At most 64 tokens; pad rows are zero and seen, as in training.

What is not there: a bundle of the full size. Packing and playing know the reference codec only; Oobleck runs in torch, in blocks.

| claim | tolerance | where |
|---|---|---|
| transformer == stable-audio-tools 0.0.20, random weights in every layer, both forms | 1e-5 | tests/sao/test_parity.py, test_golden.py |
| autoencoder == the same, both directions | 1e-4 | the same |
| autoencoder in blocks == at once | 1e-4 | tests/sao/test_streaming.py, test_parity.py |
| seconds_total == the same; T5 == the same, which runs it in half precision | 1e-5; 2e-2 | tests/sao/test_parity.py |
| all 382 names and shapes of the full size | equal | tests/sao/test_parity.py |
| all of this with random weights of the full size | 1e-5 of the output's size; 1e-4 | the same, `make test-slow` |

## Memory

{weights}

{caches}

The context's cache is one ring; a second context (a bundle waiting for a swap) is the same again.

## Time on one CPU core

ONNX Runtime, float32, one thread; median CPU time of at least 3 runs on a shared machine (Zen 4, 2 cores): ratios are good to 20-30 %.
Working memory is the most that a pass held beyond weights, inputs and outputs. The last column is time over how long the block sounds.

{passes}

Whole blocks, without the codec: CPU ms (speed-up over no cache), share of the block.

{short}

{long}

{cpu}

## The codec's look-ahead

Oobleck is not causal. A block comes out exact when it is run together with the latents on both sides that can change it
([engines/sao/streaming.py](../engines/sao/streaming.py)): the left ones are kept from before, the right ones must be waited for.

{look_ahead}

{delays}

A model that follows a sketch needs no encoder on the way (a sketch looks back only, and the context is the model's own latents): its
delay is the middle column. `decode_stream(codec, limit=n)` waits for n latents instead of 10 and is wrong near the edges of blocks; how
wrong can only be heard with trained weights. The reference engine's own decoder lags 35 ms: at full size, look-ahead is the price of
this codec.

## What follows for devices: derived, never run

For each pass the larger of two lower bounds, from the makers' figures: all operations at the dense float16 rate, or all bytes moved once
(float16: weights, cached rows, and the autoencoder's activations, which are larger than its weights). No kernel launches, no
inefficiency: expect two to four times as much.

{derived}

- Memory fits everywhere: about 1 GB in float16 for transformer, decoder, cache and prompt.
- Denoising is bound by reading the weights: a step costs nearly the same for 10 and for 48 latents, which is why short blocks are dear.
  int8 weights would halve it.
- Decoding a 10-latent block decodes 30: at short blocks two thirds of decoding is overlap.
- By these bounds an RTX laptop and both Jetsons keep up at 4 steps with room to spare. That is arithmetic: none of the three was at hand.
"""
