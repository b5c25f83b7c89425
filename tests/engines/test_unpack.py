"""From a bundle back to checkpoints, so that training goes on from what plays."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.bundle import Bundle, BundleError
from engines.export import unpack
from engines.export.package import export, load_codec
from engines.lmdm.config import Regime
from engines.lmdm.decoder import SpectrumNet
from engines.lmdm.model import LMDM
from engines.train import checkpoint
from tests.appliance.tiny_engines import tiny
from tests.engines.conftest import SMALL, Packed


def trained() -> tuple[LMDM, SpectrumNet]:
    """Small, and no two parameters are the same; what float16 cannot hold is rounded when it is packed."""
    torch.manual_seed(5)
    model, net = LMDM(SMALL).eval(), SpectrumNet().eval()
    with torch.no_grad():
        for module in (model, net):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    for pca in (net.encoder.mel, net.encoder.low):
        pca.fit(torch.randn(3000, len(pca.mean)) @ torch.randn(len(pca.mean), len(pca.mean)) * 0.03)
    return model, net


@pytest.fixture(name="marked", scope="module")
def _marked() -> unpack.Marked:
    """Exported once; who uses it up takes a copy."""
    return unpack.Marked.of(SMALL, ways=2)


def test_what_was_packed_comes_back(marked: unpack.Marked, tmp_path: Path) -> None:
    model, net = trained()
    files = export(model, net, ways=2)[1].files()  # rounds them
    unpack.write(*unpack.recover(deepcopy(marked), files), tmp_path / "lmdm.pt", tmp_path / "codec.pt")
    for module, again in ((model, checkpoint.load_model(tmp_path / "lmdm.pt")), (net, load_codec(tmp_path / "codec.pt"))):
        found = again.state_dict()
        assert not [name for name, value in module.state_dict().items() if not torch.equal(value, found[name])]


def test_an_untrained_one_is_refused(packed: Packed, marked: unpack.Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its equal parameters are stored once, and which is which cannot be told."""
    monkeypatch.setattr(unpack.Marked, "of", lambda config, ways: {(SMALL, 2): deepcopy(marked)}[config, ways])
    with pytest.raises(BundleError, match=r"k_norm\.weight where this version packs it; unpack it with the"):
        unpack.unpack(packed(Regime.BLOCK_CAUSAL, 3.0)[0])


def test_an_engine_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="of the kind 'blank', which has no weights to train on"):
        unpack.unpack(Bundle.open(tiny(tmp_path / "tiny.ghost")))


def test_what_another_version_packed_is_refused() -> None:
    """A tensor that is not where it should be is named, not guessed."""
    net = torch.nn.Linear(3, 2)
    unpack.fill(net, torch.Generator().manual_seed(0))
    made = {("g", "a"): net.weight.detach().numpy().T.copy(), ("g", "b"): net.bias.detach().numpy().copy()}
    held = {("g", "a"): np.arange(6, dtype=np.float32).reshape(3, 2), ("g", "c"): np.zeros(2, np.float32)}
    assert unpack.refill(net, made, held) == ["bias"]
    assert net.weight.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codec.pt").write_bytes(b"precious")
    monkeypatch.setattr(sys, "argv", ["unpack", "x.ghost", "--codec", str(tmp_path / "codec.pt"), "--model", str(tmp_path / "lmdm.pt")])
    with pytest.raises(SystemExit, match=r"codec\.pt is there already; move it away"):
        unpack.main()
    assert (tmp_path / "codec.pt").read_bytes() == b"precious"
