"""A codec and a model of fewer mel channels -> the same with as many as `codec.MEL_CHANNELS`, to train on from there.

    python -m engines.train.widen --codec old/codec.pt --model old/lmdm.pt --out-codec build/codec.pt --out-model build/lmdm.pt

The channels that there were stay what they are, and so does all that is made of them. The new ones hold the most of what was left out of
log-mel. The model starts by making noise of them, of the right size for each, which is what it can know of them: their noisy values
go past the transformer, times what is best for their variance at each level of noise; all that sees or says more starts at zero.

Runs in: training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from engines.lmdm import codec, text
from engines.lmdm.config import PRESETS
from engines.lmdm.decoder import SpectrumNet
from engines.lmdm.model import LMDM
from engines.train import checkpoint
from engines.train.codec import every
from engines.train.corpus import MEL
from engines.train.instruments import INSTRUMENTS, training_phrases

Tensors = dict[str, Tensor]

SCALE_POWER = 0.7  # as in Pca.fit
LEVELS = 200  # of noise, at which the skip is fitted
RIDGE = 1e-4


def into(wide: Tensor, narrow: Tensor, *places: Tensor) -> Tensor:
    """`wide` emptied, with `narrow` at these places of its dimensions."""
    wide = torch.zeros_like(wide)
    wide[torch.meshgrid(*places, indexing="ij")] = narrow
    return wide


def kept(old: int) -> Tensor:
    """Where the channels of a codec with `old` mel channels are now."""
    low = torch.arange(codec.LOW_CHANNELS) + codec.MEL_CHANNELS
    return torch.cat([torch.arange(old), low])


@torch.no_grad()
def widen_pca(pca: codec.Pca, old: Tensors, rows: Tensor) -> None:
    """The old channels as they are, and the strongest of what they leave out of rows (examples, 512), scaled by the old rule."""
    narrow = codec.Pca(len(old["mean"]), len(old["scale"]))
    narrow.load_state_dict(old)
    left = (rows - narrow.back(narrow(rows))).double()
    more = len(pca.scale) - len(narrow.scale)
    values, vectors = torch.linalg.eigh(left.T @ left / len(left))
    deviation = values.flip(0)[:more].sqrt()
    unit = (narrow.scale / (narrow.deviation * narrow.scale) ** SCALE_POWER).median()
    scale = unit * deviation**SCALE_POWER
    pca.mean.copy_(narrow.mean)
    pca.basis.copy_(torch.cat([narrow.basis, vectors.flip(1)[:, :more].float()], 1))
    pca.scale.copy_(torch.cat([narrow.scale, scale.float()]))
    pca.deviation.copy_(torch.cat([narrow.deviation, (deviation / scale).float()]))


@torch.no_grad()
def widen_codec(old: Tensors, rows: Tensor) -> SpectrumNet:
    net, pca = SpectrumNet(), "encoder.mel."
    widen_pca(net.encoder.mel, {name.removeprefix(pca): value for name, value in old.items() if name.startswith(pca)}, rows)
    new = net.state_dict()
    channels = kept(len(old[f"{pca}scale"]))
    new |= {name: value for name, value in old.items() if value.shape == new[name].shape}
    new["enter.weight"] = into(new["enter.weight"], old["enter.weight"], torch.arange(len(old["enter.weight"])), channels)
    net.load_state_dict(new)
    return net


@torch.no_grad()
def skip_of(model: LMDM, deviation: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the skip: what of a noisy value is its velocity, if nothing but its deviation (C,) and the level is known; told by
    global tokens of many levels and of the words (P, text channels)."""
    t = torch.linspace(0, 1, LEVELS)
    best = (t[:, None] - (1 - t[:, None]) * deviation**2) / ((1 - t[:, None]) ** 2 * deviation**2 + t[:, None] ** 2)
    tokens = torch.cat([model.global_tokens(t, words[None]) for words in pooled]).double()
    wanted = best.repeat(len(pooled), 1).double()
    mean, middle = tokens.mean(0), wanted.mean(0)
    centred = tokens - mean
    covariance, told = (centred.T @ other / len(tokens) for other in (centred, wanted - middle))
    weight = torch.linalg.solve(covariance + RIDGE * torch.eye(len(mean)), told)
    error = (centred @ weight + middle - wanted).abs().mean()
    print(f"the skip is {error:.3f} off on average, of {best.std():.3f}")
    return weight.T.float(), (middle - mean @ weight).float()


@torch.no_grad()
def widen_model(old: Tensors, net: SpectrumNet, pooled: Tensor) -> LMDM:
    model = LMDM(PRESETS["reference"])
    new, width = model.state_dict(), model.config.width
    mel = old["preprocess_conv.weight"].shape[0] - codec.LOW_CHANNELS
    channels, all_, one = kept(mel), torch.arange(width), torch.zeros(1, dtype=torch.long)
    after = torch.cat([one, channels + 1])  # behind a presence channel
    places = {
        "to_input_add_embed.weight": (all_, torch.cat([after, after + codec.LATENT_CHANNELS + 1])),
        "transformer.project_in.weight": (all_, channels),
        "transformer.project_out.weight": (channels, all_),
        "preprocess_conv.weight": (channels, channels, one),
        "postprocess_conv.weight": (channels, channels, one),
    }
    new |= {name: value for name, value in old.items() if name not in places}
    new |= {name: into(new[name], old[name], *where) for name, where in places.items()}
    model.load_state_dict(new)
    fresh = torch.ones(codec.LATENT_CHANNELS, dtype=torch.bool)
    fresh[channels] = False
    weight, bias = skip_of(model, net.encoder.deviation, pooled)
    model.to_skip.weight.copy_(weight * fresh[:, None])
    model.to_skip.bias.copy_(bias * fresh)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Give a codec and its model the mel channels that they lack.")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    for part in ("codec", "model", "out-codec", "out-model"):
        parser.add_argument(f"--{part}", type=Path, required=True)
    args = parser.parse_args()
    net = widen_codec(checkpoint.load(args.codec)["net"], every(args.data, 23)[:, MEL])
    pooled = torch.stack([text.encode(training_phrases(program)[0]).pooled for program in INSTRUMENTS] + [text.NULL_PROMPT.pooled])
    model = widen_model(checkpoint.load(args.model)["average"], net, pooled)
    checkpoint.save(args.out_codec, {"net": net.state_dict()})
    checkpoint.save(args.out_model, {"average": model.state_dict(), "config": json.dumps(asdict(model.config))})
    print(f"{args.out_codec}, {args.out_model}: {codec.LATENT_CHANNELS} channels")


if __name__ == "__main__":
    main()
