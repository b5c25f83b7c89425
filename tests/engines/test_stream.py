"""The streaming engine: equal to training's rollout, exact over save and restore, steady in cost and memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from engines.backend import Weights
from engines.bundle import open_engine, read_spec
from engines.engine import EngineControls
from engines.export.golden import compared
from engines.lmdm import sampler, sketch
from engines.lmdm.config import SKETCH_CHANNELS, Regime
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise
from engines.lmdm.sampler import Solver
from engines.lmdm.stream import LmdmFacts, StreamingEngine, soften, stray
from engines.ort import OrtBackend
from engines.prompts import StoredPrompt, write_prompt
from tests.engines.conftest import Packed

REGIMES = pytest.mark.parametrize("regime", list(Regime), ids=lambda r: r.value)


def guitar(blocks: int, block_frames: int) -> list[np.ndarray]:
    t = np.arange(blocks * block_frames) / 44_100
    audio = 0.2 * np.sin(2 * np.pi * 196 * t) * np.exp(-3 * (t % 0.5)) + 0.003 * np.random.default_rng(0).standard_normal(len(t))
    return list(audio.astype(np.float32).reshape(blocks, block_frames))


@REGIMES
@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["plain", "guided"])
def test_every_graph_output_is_within_1e_4_of_torch(packed: Packed, regime: Regime, guidance: float) -> None:
    _, _, parity = packed(regime, guidance)
    expected = {"encode", "prompt", "step", "decode"} | ({"first", "commit"} if regime is Regime.BLOCK_CAUSAL else {"context"})
    assert set(parity) == expected
    for graph, outputs in parity.items():
        for output, difference in outputs.items():
            assert difference <= 1e-4 or not compared(output), f"{graph}.{output}: {difference:.1e}"


WAYS = {
    "plain": (1.0, Solver.EULER, False), "guided": (3.0, Solver.EULER, False), "guided jam": (3.0, Solver.EULER, True),
    "multistep": (3.0, Solver.MULTISTEP, False), "ping-pong": (1.0, Solver.PING_PONG, False),
}  # fmt: skip


@REGIMES
@pytest.mark.parametrize(("guidance", "solver", "jam"), list(WAYS.values()), ids=list(WAYS))
@torch.no_grad()
def test_streaming_equals_rollout(packed: Packed, regime: Regime, guidance: float, solver: Solver, jam: bool) -> None:
    """Eight blocks through the exported graphs give the latents of the torch rollout that training uses."""
    bundle, model, _ = packed(regime, guidance)
    engine = StreamingEngine(bundle, OrtBackend())
    engine.facts = replace(engine.facts, solver=solver)
    engine.reset(11)
    made, heard, sketches = [], [], []
    for block in guitar(8, engine.spec.block_frames):
        latents, sketch = engine.graphs["encode"]({"audio": np.concatenate([engine.state.audio, block])[None]})
        heard.append(torch.from_numpy(latents))
        sketches.append(torch.from_numpy(sketch))
        engine.generate(block, EngineControls(prompt=1, jam=jam))
        assert engine.state.pending is not None
        made.append(engine.state.pending)
    here = torch.ones(1, 8 * engine.config.block_latents, 1)
    sketch_rows = torch.cat([here, torch.cat(sketches, 1)], 2) * (not jam)
    partner = torch.cat([here / (3 if jam else 1), torch.cat(heard, 1)], 2)  # in a jam it was played two blocks before
    states, pooled = (torch.tensor(engine.weights.array(f"prompt/1/{part}")).float() for part in ("states", "pooled"))
    conditions = Conditions(states, pooled, sketch_rows, partner)
    sampling = Sampling(sampler.schedule(3, sampler.Spacing.EVEN), solver, guidance)
    expected = rollout(model, conditions, 8, sampling, seeded_noise(11, 1, model)).numpy()
    tolerance = max(1e-3, 1e-5 * float(np.abs(expected).max()))  # random weights make hundreds, and guidance lets what rounds off grow
    np.testing.assert_allclose(np.concatenate(made, 1), expected, atol=tolerance, rtol=1e-4)


SAID: list[tuple[dict[str, Any], Solver]] = [
    ({}, Solver.EULER), ({"ping_pong": False}, Solver.EULER), ({"ping_pong": True}, Solver.PING_PONG),
    ({"solver": "multistep"}, Solver.MULTISTEP),
]  # fmt: skip


@pytest.mark.parametrize(("said", "solver"), SAID)
def test_older_bundles_say_their_solver_in_another_way(packed: Packed, said: dict[str, Any], solver: Solver) -> None:
    facts = packed(Regime.BLOCK_CAUSAL)[0].manifest.facts["model"]
    assert LmdmFacts.of({**{name: value for name, value in facts.items() if name != "solver"}, **said}).solver is solver


@REGIMES
def test_save_and_restore_continue_bit_exact(packed: Packed, regime: Regime) -> None:
    engine = StreamingEngine.open(packed(regime)[0])
    blocks = guitar(9, engine.spec.block_frames)
    for block in blocks[:5]:
        engine.generate(block, EngineControls())
    saved = engine.save()
    first = [engine.generate(block, EngineControls()) for block in blocks[5:]]
    engine.restore(saved)
    second = [engine.generate(block, EngineControls()) for block in blocks[5:]]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_seed_same_sound_and_another_seed_another(packed: Packed) -> None:
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    blocks = guitar(3, engine.spec.block_frames)

    def play(seed: int) -> np.ndarray:
        engine.reset(seed)
        return np.concatenate([engine.generate(block, EngineControls()) for block in blocks])

    assert np.array_equal(play(1), play(1))
    assert not np.array_equal(play(1), play(2))


@REGIMES
def test_prefill_keeps_what_was_heard_as_context(packed: Packed, regime: Regime) -> None:
    """A block that was only heard is in the context afterwards: with it, the next answer differs from one with no past."""
    engine = StreamingEngine.open(packed(regime)[0])
    blocks = guitar(3, engine.spec.block_frames)
    engine.prefill(blocks[0])
    engine.prefill(blocks[1])
    assert engine.state.block == 2
    assert (engine.state.cache.bias == 0).sum() == engine.config.block_latents  # the first of the two; the second is pending
    engine.generate(blocks[2], EngineControls())
    assert (engine.state.cache.bias == 0).sum() == 2 * engine.config.block_latents


@REGIMES
@pytest.mark.parametrize("alone", [EngineControls(freeze=True), EngineControls(jam=True), EngineControls(stray=1.0)], ids=str)
def test_a_rest_is_answered_by_one(packed: Packed, regime: Regime, alone: EngineControls) -> None:
    """After three silent blocks a follower's answer is the silence that it heard, in the context too; who plays alone plays on."""
    engine = StreamingEngine.open(packed(regime)[0])
    silence = np.zeros(engine.spec.block_frames, np.float32)
    for count, block in enumerate([*guitar(5, engine.spec.block_frames), *[silence] * 4]):
        engine.generate(block, EngineControls())
        heard = engine.state.loop[count % engine.config.context_blocks]
        rests = np.array_equal(engine.state.pending, heard.latents)
        assert rests == (count >= 7), count
    engine.generate(silence, alone)
    assert not np.array_equal(engine.state.pending, engine.state.loop[9 % engine.config.context_blocks].latents)


def test_the_window_never_holds_more_than_its_blocks(packed: Packed) -> None:
    """After many blocks the ring is full, and during a first step the oldest block is hidden."""
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    for block in guitar(6, engine.spec.block_frames):
        engine.generate(block, EngineControls())
    assert (engine.state.cache.bias == 0).all()
    assert engine.state.block == 6


def test_steps_and_prompt_follow_the_controls(packed: Packed) -> None:
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    (block,) = guitar(1, engine.spec.block_frames)
    stamps: list[str] = []
    answers = []
    for controls in (EngineControls(), EngineControls(steps=1), EngineControls(steps=99), EngineControls(prompt=1)):
        engine.reset(0)
        stamps.clear()
        answers.append(engine.generate(block, controls, stamps.append))
        steps = min(controls.steps or engine.spec.steps, engine.spec.max_steps)
        assert stamps == ["encoded", *["step"] * steps, "decoded"]
    assert not np.array_equal(answers[0], answers[3])


def test_an_answer_never_exceeds_full_scale_and_is_left_alone_below_the_knee() -> None:
    audio = np.linspace(-4, 4, 4001, dtype=np.float32)
    soft = soften(audio)
    assert np.abs(soft).max() <= 1
    assert (np.diff(soft) >= 0).all()
    quiet = np.abs(audio) <= 0.8
    assert np.array_equal(soft[quiet], audio[quiet])


def test_cost_and_memory_do_not_grow(packed: Packed) -> None:
    """A block far into a set takes the same arrays, of the same sizes, as an early one."""
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    (block,) = guitar(1, engine.spec.block_frames)

    def held() -> int:
        s = engine.state
        return s.cache.keys.nbytes + s.cache.values.nbytes + s.audio.nbytes + s.window.nbytes + sum(a.nbytes for a in s.decoder.values())

    for _ in range(4):
        engine.generate(block, EngineControls())
    early = held()
    for _ in range(40):
        engine.generate(block, EngineControls())
    assert held() == early
    engine.state.block = 230_000 // engine.config.block_latents  # three hours in
    assert np.isfinite(engine.generate(block, EngineControls())).all()


def rows(engine: StreamingEngine, block: int) -> np.ndarray:
    """Which rows of the cache a target sees, as block numbers counted back from `block`."""
    n, held = engine.config.block_latents, engine.config.context_blocks
    seen = engine.state.cache.bias.reshape(held, n)[:, 0] == 0
    return np.array([age for age in range(1, held + 1) if seen[(block - age) % held]])


def test_other_words_drop_the_oldest_context(packed: Packed) -> None:
    """A morph that stays on its side of the middle drops nothing; crossing it does."""
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    blocks = guitar(8, engine.spec.block_frames)
    for block in blocks[:5]:
        engine.generate(block, EngineControls(prompt=0, second_prompt=1, morph=0.4))
    assert len(rows(engine, 4)) == engine.config.context_blocks
    engine._forget(1)
    assert list(rows(engine, 4)) == [1]  # the fifth block is pending; the fourth stays
    engine.reset(0)
    for block in blocks[:5]:
        engine.generate(block, EngineControls(prompt=0, second_prompt=1, morph=0.0))
    before = engine.save()
    stayed = engine.generate(blocks[5], EngineControls(prompt=0, second_prompt=1, morph=0.3))
    engine.restore(before)
    moved = engine.generate(blocks[5], EngineControls(prompt=0, second_prompt=1, morph=0.7))
    assert not np.array_equal(stayed, moved)


def test_morph_ends_are_the_prompts_themselves(packed: Packed) -> None:
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    (block,) = guitar(1, engine.spec.block_frames)

    def answer(**wishes: float) -> np.ndarray:
        engine.reset(0)
        return engine.generate(block, EngineControls(**wishes))  # type: ignore[arg-type]

    assert np.array_equal(answer(prompt=0, second_prompt=1, morph=0.0), answer(prompt=0))
    assert np.array_equal(answer(prompt=0, second_prompt=1, morph=1.0), answer(prompt=1))
    assert not np.array_equal(answer(prompt=0, second_prompt=1, morph=0.5), answer(prompt=0))


def test_straying_thins_the_sketch_as_training_does() -> None:
    sketched = torch.rand(1, 8, SKETCH_CHANNELS, generator=torch.Generator().manual_seed(0))
    sketched[..., :-4] *= torch.rand(1, 8, SKETCH_CHANNELS - 4) > 0.8  # mostly empty, as sketches are
    for share in (0.0, 0.05, 0.3, 0.5, 0.99, 1.0):
        trained = sketch.stray(sketch_top(sketched), torch.tensor([share])).numpy()
        np.testing.assert_array_equal(stray(sketch_top(sketched).numpy(), share), trained)
    assert not stray(sketched.numpy(), 1.0).any()


def sketch_top(sketched: torch.Tensor) -> torch.Tensor:
    """At most ten peaks in a row, as `Sketch.thin` leaves them."""
    bins = sketched[..., :-4].unflatten(-1, (2, -1))
    least = torch.topk(bins, 10, -1).values[..., -1:]
    return torch.cat([torch.where(bins >= least, bins, torch.zeros_like(bins)).flatten(-2), sketched[..., -4:]], -1)


def test_jamming_hears_a_partner_and_follows_nothing(packed: Packed) -> None:
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    heard = engine._hear(guitar(1, engine.spec.block_frames)[0], freeze=False)
    jam, follow = engine._known(heard, EngineControls(jam=True)), engine._known(heard, EngineControls())
    loose = engine._known(heard, EngineControls(stray=0.4))
    assert not jam.sketch_rows.any()
    assert np.allclose(jam.partner[..., 0], 1 / 3)  # played two blocks before what is being made
    assert np.allclose(follow.sketch_rows[..., 0], 1) and np.allclose(follow.partner[..., 0], 1)
    assert np.allclose(loose.sketch_rows[..., 0], 0.6) and not loose.partner.any()
    assert np.array_equal(*follow.inputs(ways=2)["partner"])
    with_words, without = jam.inputs(ways=2)["partner"]
    assert with_words.any() and not without.any()


def test_freezing_hears_nothing_new_and_goes_on(packed: Packed) -> None:
    """Whatever is played meanwhile, a frozen engine goes round in what it heard before; afterwards it listens again."""
    engine = StreamingEngine.open(packed(Regime.BLOCK_CAUSAL)[0])
    blocks = guitar(6, engine.spec.block_frames)
    for block in blocks[:4]:
        engine.generate(block, EngineControls())
    before = engine.save()
    frozen = [engine.generate(block, EngineControls(freeze=True)) for block in (blocks[4], blocks[5])]
    engine.restore(before)
    silence = np.zeros_like(blocks[0])
    again = [engine.generate(block, EngineControls(freeze=True)) for block in (silence, silence)]
    assert all(np.array_equal(a, b) for a, b in zip(frozen, again, strict=True))
    engine.restore(before)
    assert not np.array_equal(engine.generate(blocks[4], EngineControls()), frozen[0])


def test_prompts_of_the_players_own_come_behind_those_of_the_bundle(packed: Packed, tmp_path: Path) -> None:
    bundle, _, _ = packed(Regime.BLOCK_CAUSAL)
    states, pooled = (StreamingEngine.open(bundle).weights.array(f"prompt/1/{part}") for part in ("states", "pooled"))
    write_prompt(tmp_path, StoredPrompt("my own words", states, pooled))
    write_prompt(tmp_path, StoredPrompt("for another model", states[:, :3], pooled))
    engine = open_engine(str(bundle.path), prompts=str(tmp_path))
    assert engine.spec.prompts == ("first", "second", "my own words") == read_spec(str(bundle.path), str(tmp_path)).prompts
    (block,) = guitar(1, engine.spec.block_frames)
    answers = []
    for prompt in (1, 2, 0):
        engine.reset(0)
        answers.append(engine.generate(block, EngineControls(prompt=prompt)))
    assert np.array_equal(answers[0], answers[1])  # the same embedding
    assert not np.array_equal(answers[1], answers[2])


def test_no_graph_adds_what_a_runtime_takes_for_nothing(packed: Packed) -> None:
    """ONNX Runtime removes `x + 1e-16`; what kept a division from infinity is then gone. Floors are written as clips."""
    bundle, _, _ = packed(Regime.BLOCK_CAUSAL)
    weights = Weights.of(bundle)
    for entry in bundle.manifest.files:
        if not entry.path.endswith(".onnx"):
            continue
        graph = onnx.load_from_string(bundle.read(entry.path)).graph
        stored = weights.for_graph(entry.path.removesuffix(".onnx"))
        inside = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name not in stored}
        for node in graph.node:
            constants = [{**inside, **stored}[name] for name in node.input if name in inside or name in stored]
            if node.op_type in ("Add", "Sub"):
                tiny = [c for c in constants if c.size == 1 and 0 < abs(float(c.ravel()[0])) < 1e-5]
                assert not tiny, f"{entry.path}, {node.name}: adds {tiny}"
