# Ghostnote. On a Debian or Ubuntu machine with python3, git and make, everything else is set up by the target that needs it:
#
#   make demo     play a guitar recording through the shipped engine in real time; results in build/demo
#   make test     every test except the slow ones (make test-slow for those)
#   make test-tensorrt  real TensorRT plans without a GPU, and our calls against the signatures of four TensorRTs
#   make test-system  the service in a container with a real systemd (as root; the first time it makes a Debian, in ~/.cache/ghostnote)
#   make gig      a simulated three-hour set, SEED=1: virtual time, faults in everything, each sample judged (docs/gig.md); results in build/gig
#   make bench    what a block costs, uncached and cached
#   make train    render the corpus, train an engine, pack it and evaluate it, all in build/ (hours; resumes where it stopped)
#   make evaluate evaluate the shipped engine, or ENGINE=path, into docs/evaluation (needs the corpus: renders it first)
#   make rehearse all of `make train` in small, in build/rehearsal: what comes out plays noise, but every step has run
#   make lint     style tests only
#   make clean    remove the virtual environment and caches; build/ stays
#
# Where the package index offers torch with CUDA by default, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels to save
# gigabytes; any build of the pinned version will do.

PYTHON ?= python3
SEED ?= 1
ENGINE ?= engines/bundles/reference.ghost
BUILD ?= build
REPORT ?= docs/evaluation
PRETRAIN ?= --steps 11000 --own-context 0.3
PACK ?= --steps 5 --solver multistep --guidance 1.75
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

APT_PLAY := python3-venv
APT_TEST := gcc libc6-dev pkg-config python3-dev libasound2-dev libasound2-plugins libsystemd-dev jackd2 g++ libjack-jackd2-dev systemd chromium minisign
APT_SYSTEM := systemd-container mmdebstrap git python3-venv
APT_TRAIN := fluidsynth fluid-soundfont-gm musescore-general-soundfont-lossless timgm6mb-soundfont sonic-pi-samples fretsonfire-songs-sectoid

# Two threads that spin while they wait cost ten times the time on a machine with anything else to do.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-tensorrt test-system gig bench train evaluate rehearse lint clean

help:
	@sed -n 's/^#   //p' Makefile

# Stamps: each is newer than pyproject.toml once its packages are in the virtual environment.
$(VENV)/.base:
	@.ci/apt-need $(if $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && echo yes),,$(APT_PLAY))
	@echo "creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d is too old: 3.10 or newer is needed" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.play: pyproject.toml $(VENV)/.base
	@echo "installing ghostnote and what it needs to play"
	@$(PIP) install --editable '.[demo]'
	@touch $@

# basic-pitch's wheel holds the ONNX model that note-F is measured with; its code and dependencies (TensorFlow, librosa) are not used.
$(VENV)/.train: pyproject.toml $(VENV)/.play
	@echo "installing what training and evaluation need (torch among it; this takes a few minutes)"
	@$(PIP) install --editable '.[demo,train]'
	@$(PIP) install --no-deps basic-pitch==0.4.0
	@touch $@

$(VENV)/.apt: pyproject.toml $(VENV)/.base
	@.ci/apt-need $(APT_TEST)
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.apt $(VENV)/.train
	@echo "installing what the tests need"
	@$(PIP) install --use-pep517 --editable '.[demo,device,midi,openvino,train,web,dev]'
	@touch $@

# stable-audio-tools, against which Stable Audio Open's layout is tested, pins Python, torch and numpy to old versions that these tests do
# without; what it imports comes beside it. torchaudio does without its compiled part, which is linked against CUDA.
PARITY := alias-free-torch==0.0.6 einops==0.8.2 einops-exts==0.0.4 lightning-utilities==0.15.3 'PyWavelets>=1.8,<2' \
	pytorch-lightning==2.6.6 torchaudio==2.11.0 torchmetrics==1.9.0 torchsde==0.2.6 trampoline==0.1.2
$(VENV)/.parity: $(VENV)/.test
	@$(PIP) install --no-deps --ignore-requires-python stable-audio-tools==0.0.20
	@$(PIP) install --no-deps $(PARITY)
	@rm -f $(VENV)/lib/python3*/site-packages/torchaudio/lib/*.so
	@touch $@

# TensorRT for RTX compiles plans without a GPU. Bindings of other TensorRTs and pycuda's source are there to check types against. Tests
# that want one of them skip, by name, where it has no wheel for this machine.
BINDINGS := tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.13.3.9 tensorrt-cu13-bindings==11.4.0.106
$(VENV)/.tensorrt: pyproject.toml $(VENV)/.test
	@echo "installing TensorRT for RTX, and what its calls are checked against"
	@$(PIP) install --editable '.[rtx]' || echo "note: no TensorRT for RTX here; tests that compile plans are skipped"
	@for one in $(BINDINGS); do $(PIP) install --no-deps --upgrade --target $(VENV)/bindings/$${one##*==} $$one || echo "note: no $$one here"; done
	@$(PIP) download --no-deps --no-binary :all: --no-build-isolation --dest $(VENV)/bindings/pycuda pycuda==2026.1 \
		|| echo "note: no source of pycuda here"
	@touch $@

demo: $(VENV)/.play
	@$(BIN)/ghostnote demo --out build/demo

# In two processes: what computes does so beside what drives real processes against real clocks (tests/conftest.py). Where others hold
# those up, a test may fail. It has one more try, and the summary names it.
test: $(VENV)/.test $(VENV)/.parity $(VENV)/.tensorrt
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --reruns 1 -raR

test-slow: $(VENV)/.test $(VENV)/.tensorrt
	@$(BIN)/python -m pytest -m slow

test-tensorrt: $(VENV)/.test $(VENV)/.tensorrt
	@$(BIN)/python -m pytest --durations 5 tests/tensorrt

test-system: $(VENV)/.test
	@.ci/apt-need $(APT_SYSTEM)
	@$(BIN)/python -m pytest -m nspawn tests/service
	@$(BIN)/python -m pytest -m slow tests/gig

gig: $(VENV)/.test
	@$(BIN)/python -m tests.gig --minutes 180 --seed $(SEED) --out build/gig

lint: $(VENV)/.test
	@$(BIN)/python -m pytest tests/style

bench: $(VENV)/.train
	@$(BIN)/ghostnote bench

# Everything follows from seeds, and every step goes on where it was stopped. Options say how much; as they stand, the shipped recipe.
train: $(VENV)/.train
	@.ci/apt-need $(APT_TRAIN)
	$(BIN)/python -m engines.train.data --out $(BUILD)/data $(RENDER)
	$(BIN)/python -m engines.train.codec --data $(BUILD)/data --out $(BUILD)/codec.pt $(CODEC)
	$(BIN)/python -m engines.train.pretrain --data $(BUILD)/data --codec $(BUILD)/codec.pt --out $(BUILD)/lmdm.pt $(PRETRAIN)
	$(BIN)/python -m engines.export.package --codec $(BUILD)/codec.pt --model $(BUILD)/lmdm.pt --out $(BUILD)/engine.ghost $(PACK)
	$(BIN)/python -m engines.train.codec_eval --codec $(BUILD)/codec.pt --data $(BUILD)/data --out $(BUILD)/evaluation
	@$(MAKE) --no-print-directory evaluate ENGINE=$(BUILD)/engine.ghost REPORT=$(BUILD)/evaluation

evaluate: $(VENV)/.train
	@.ci/apt-need $(APT_TRAIN)
	$(BIN)/python -m engines.train.data --out $(BUILD)/data $(RENDER)
	$(BIN)/python -m engines.train.evaluate $(ENGINE) --data $(BUILD)/data --out $(REPORT) $(EVALUATE)
	$(BIN)/python -m engines.train.uses $(ENGINE) --data $(BUILD)/data --out $(REPORT) $(EVALUATE)
	$(BIN)/python -m engines.train.compare $(ENGINE) --steps 1 2 4 8 --title steps --data $(BUILD)/data --out $(REPORT) $(COMPARE)

rehearse:
	@$(MAKE) --no-print-directory train BUILD=build/rehearsal RENDER='--scores 2' CODEC='--steps 20' PRETRAIN='--steps 10 --batch 2' \
		EVALUATE=--quick COMPARE='--scores 2'

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
