"""Pack an engine: codec and LMDM checkpoints -> one bundle, every graph compared with torch on the way.

    python -m engines.export.package --codec build/codec.pt --model build/lmdm.pt --out engines/bundles/reference.ghost

Runs in: export, offline; needs torch and the text encoder. A device needs neither.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from engines.backend import Backend, Weights
from engines.bundle import write_bundle
from engines.engine import EngineSpec
from engines.export.footprint import measure
from engines.export.golden import compared, golden_vectors
from engines.export.graphs import MAX_STEPS, GraphSpec, codec_graphs, model_graphs
from engines.export.onnx import SharedWeights, round_parameters, to_onnx
from engines.export.precision import with_half_graphs
from engines.golden import GOLDEN_FILE
from engines.lmdm import codec, decoder, sampler, sketch, text
from engines.lmdm.decoder import Decoder, DecoderState, SpectrumNet
from engines.lmdm.model import LMDM
from engines.lmdm.sampler import Solver, Spacing
from engines.lmdm.words import NULL_PROMPT
from engines.manifest import LICENCE_FOLDER, PROMPTS_FILE, head
from engines.ort import OrtBackend
from engines.tensors import pack_tensors
from engines.train import checkpoint
from engines.train.instruments import INSTRUMENTS, held_out_phrases, name_of

TOLERANCE = 1e-4
OWN_LICENCE = Path(__file__).parents[2] / "LICENSE"
LICENCES = (  # what each covers, its name, its text
    ("code and weights", "MIT", "ghostnote.txt"),
    ("weights: renderings with the Fluid (R3) GM SoundFont", "MIT", "fluid-r3-gm.txt"),
    ("weights: renderings with the MuseScore General SoundFont", "MIT, parts in the public domain or CC0", "musescore-general.txt"),
    ("weights: guitar stems by Carlos Viola Iborra", "MIT-style", "sectoid-guitar.txt"),
    ("embeddings of prompts: all-MiniLM-L6-v2", "Apache-2.0", "all-minilm-l6-v2.txt"),
)


@dataclass(frozen=True)
class Recipe:
    """What is not in the checkpoints."""

    name: str
    release: str
    created: str
    steps: int
    spacing: Spacing
    guidance: float
    use_partner: bool
    solver: Solver = Solver.EULER
    regression: bool = False
    number: int = 0
    author: str = "Ghostnote contributors"


def load_codec(path: Path) -> SpectrumNet:
    net = SpectrumNet()
    net.load_state_dict(checkpoint.load(path)["net"])
    return net.eval()


def engine_arrays(model: LMDM, decode: Decoder) -> dict[str, np.ndarray]:
    """What the engine itself needs, beside its graphs."""
    arrays = {"inv_freq": model.transformer.rotary_pos_emb.inv_freq.numpy()}
    for name, value in zip(DecoderState._fields, decode.initial_state(), strict=True):
        arrays[f"decoder/{name}"] = value.numpy()
    return arrays


def prompt_arrays(prompts: list[text.Prompt]) -> dict[str, np.ndarray]:
    """Words, as the model takes them; -1 is no words at all."""
    arrays = {}
    for i, prompt in [*enumerate(prompts), (NULL_PROMPT, text.NULL_PROMPT)]:
        arrays[f"prompt/{i}/states"] = prompt.states[None].numpy().astype(np.float16)
        arrays[f"prompt/{i}/pooled"] = prompt.pooled[None].numpy().astype(np.float16)
    return arrays


@torch.inference_mode()
def largest_difference(spec: GraphSpec, backend: Backend, onnx: bytes, weights: Weights) -> dict[str, float]:
    """Per output: the largest difference between torch and `backend`, relative to the output's largest value where that is over 1."""
    expected = spec.module(*spec.inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = backend.load(onnx, weights.for_graph(spec.name))({name: value.numpy() for name, value in spec.inputs.items()})
    return {
        name: float(np.abs(e.numpy() - f).max() / max(1.0, float(e.abs().max())))
        for name, e, f in zip(spec.outputs, expected, found, strict=True)
    }


def export(model: LMDM, net: SpectrumNet, ways: int = 1) -> tuple[list[GraphSpec], SharedWeights]:
    """Round, and turn all that an engine consists of into graphs over one file of weights; `ways`: see graphs.py."""
    for module in (model, net):
        round_parameters(module)
    decode = Decoder(net, model.config.block_latents).eval()
    specs = [*model_graphs(model, ways), *codec_graphs(net.encoder, decode, model.config)]
    shared = SharedWeights()
    for name, array in engine_arrays(model, decode).items():
        shared.add(name, array)
    for spec in track(specs, description="exporting"):
        shared.take(spec.name, to_onnx(spec))
    return specs, shared


def build_files(
    model: LMDM, net: SpectrumNet, prompts: list[text.Prompt], ways: int = 1
) -> tuple[dict[str, bytes], dict[str, dict[str, float]]]:
    """Export and compare -> the bundle's files, and differences per graph and output."""
    specs, shared = export(model, net, ways)
    files = {**with_half_graphs(shared.files()), PROMPTS_FILE: pack_tensors(prompt_arrays(prompts)), **licence_files()}
    weights = Weights.of_files(files)
    files[GOLDEN_FILE] = golden_vectors(specs, weights)
    backend = OrtBackend()
    return files, {spec.name: largest_difference(spec, backend, files[f"{spec.name}.onnx"], weights) for spec in specs}


def licence_files() -> dict[str, bytes]:
    """The texts of all licences under which parts of an engine are."""
    folder = Path(__file__).parent / "licences"
    return {
        LICENCE_FOLDER + name: (OWN_LICENCE if name == "ghostnote.txt" else folder / name).read_bytes() for _, _, name in LICENCES
    }


def manifest_of(recipe: Recipe, model: LMDM, parity: dict[str, dict[str, float]], names: list[str]) -> dict[str, object]:
    block_frames = model.config.block_latents * codec.LATENT_FRAMES
    spec = EngineSpec(recipe.name, codec.SAMPLE_RATE, block_frames, decoder.DELAY_FRAMES, tuple(names), recipe.steps, MAX_STEPS)
    facts = {
        "config": asdict(model.config), "spacing": recipe.spacing.value, "guidance": recipe.guidance, "use_partner": recipe.use_partner,
        "solver": recipe.solver.value, "regression": recipe.regression, "history_frames": sketch.HISTORY_FRAMES,
        "decoder_state": list(DecoderState._fields), "parameters": count(model),
    }
    licences = [{"covers": covers, "name": name, "file": LICENCE_FOLDER + file} for covers, name, file in LICENCES]
    return head(
        "lmdm", spec, number=recipe.number, release=recipe.release, created=recipe.created, author=recipe.author, licences=licences,
        golden_tolerance=TOLERANCE, model=facts, parity_torch_onnxruntime=parity,
    )  # fmt: skip


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def write_measured(out: Path, manifest: dict[str, object], files: dict[str, bytes]) -> None:
    """Write the bundle, see what memory a worker needs with it, and write it again with that."""
    write_bundle(out, manifest, files)
    write_bundle(out, {**manifest, "memory_bytes": measure(out)}, files)


def show(parity: dict[str, dict[str, float]]) -> bool:
    """Print the parity table; True if every compared output is within tolerance."""
    table = Table("graph", "output", "torch - onnxruntime", title="parity")
    good = True
    for graph, outputs in parity.items():
        for output, value in outputs.items():
            good &= value <= TOLERANCE or not compared(output)
            table.add_row(graph, output, f"{value:.1e}" if compared(output) else f"{value:.1e} (not compared)")
    Console().print(table)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack checkpoints into a bundle.")
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--model", type=Path, default=Path("build/lmdm.pt"))
    parser.add_argument("--out", type=Path, default=Path("build/engine.ghost"))
    parser.add_argument("--name", default="reference")
    parser.add_argument("--release", default="1")
    parser.add_argument("--number", type=int, help="grows with every release of an engine: pedals refuse to go back (default: the release)")
    parser.add_argument("--created", default=date.today().isoformat())
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--spacing", choices=[s.value for s in Spacing], default=Spacing.EVEN.value)
    parser.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance; 1 is none")
    parser.add_argument("--partner", action=argparse.BooleanOptionalAction, default=True, help="tell what was heard beside its sketch")
    parser.add_argument("--solver", choices=[s.value for s in Solver], default=Solver.EULER.value, help="ping-pong: after post-training")
    parser.add_argument("--regression", action="store_true", help="the baseline that was trained without noise")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spacing = Spacing(args.spacing)
    number = args.number if args.number is not None else int(args.release) if args.release.isdecimal() else 0
    recipe = Recipe(
        args.name, args.release, args.created, args.steps, spacing, args.guidance, args.partner, Solver(args.solver), args.regression,
        number,
    )  # fmt: skip
    names = [name_of(p) for p in INSTRUMENTS] + [words for p in INSTRUMENTS for words in held_out_phrases(p)]
    model = checkpoint.load_model(args.model)
    prompts = [text.encode(name) for name in names]
    files, parity = build_files(model, load_codec(args.codec), prompts, sampler.ways(args.guidance))
    if not show(parity):
        sys.exit(f"a graph differs from torch by more than {TOLERANCE}: not packed")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_measured(args.out, manifest_of(recipe, model, parity, names), files)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
