"""Tiny random models of every tested architecture, and a tokenizer for them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["ULTRAEDIT_CACHE"] = ""

import pytest
import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ultraedit.methods.registry import DEFAULT, available
from ultraedit.storage import Layout, read_manifest

# A shell starts what is in its background with interrupts ignored, and so all that this starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = "the capital of france is paris who was what where in city person born plays jazz guitar"
RELEASE = "4.57.3"
OLDER = (f"transformers=={RELEASE}", "tokenizers==0.22.1", "huggingface-hub==0.36.0", "requests",
         "urllib3", "certifi", "charset-normalizer", "idna")  # fmt: skip
OPEN_MODEL = Path(__file__).with_name("open_model.py")
LLAMA_LIKE = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
    "max_position_embeddings": 64,
}  # fmt: skip
ARCHITECTURES = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64,
                      "initializer_range": 0.2}),
    "gptj": ("GPTJ", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64,
                      "rotary_dim": 4, "initializer_range": 0.2}),
    "gpt_neox": ("GPTNeoX", {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 4,
                             "num_attention_heads": 4, "max_position_embeddings": 64,
                             "initializer_range": 0.2}),
    "llama": ("Llama", LLAMA_LIKE),
    "mistral": ("Mistral", LLAMA_LIKE | {"sliding_window": 8}),
    "qwen2": ("Qwen2", LLAMA_LIKE),
    "qwen3": ("Qwen3", LLAMA_LIKE | {"head_dim": 8}),
    "phi3": ("Phi3", LLAMA_LIKE | {"pad_token_id": 0}),
    "opt": ("OPT", {"hidden_size": 32, "ffn_dim": 56, "num_hidden_layers": 4,
                    "num_attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.2,
                    "word_embed_proj_dim": 32, "pad_token_id": 0}),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
                          "max_position_embeddings": 64, "initializer_range": 0.2}),
    "gemma3": ("Gemma3", LLAMA_LIKE | {"head_dim": 8, "sliding_window": 8}),
}  # fmt: skip

# Settings with which a method is quick over a tiny model; all others are its defaults.
QUICK = {
    "anchored": {"anchors": 48},
    "ultraedit": {"lr": 1e-3},
    "rome": {"fact_token": "last", "prefixes": 2, "samples": 2048},
    "memit": {"fact_token": "last", "prefixes": 2, "samples": 2048},
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that prepends beginning-of-sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [WORDS] * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_model(architecture: str, seed: int = 0, **changes):
    prefix, options = ARCHITECTURES[architecture]
    config_name = "Gemma3TextConfig" if prefix == "Gemma3" else f"{prefix}Config"
    config = getattr(transformers, config_name)(
        **{"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2, **options, **changes}
    )
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def build():
    """`build(architecture, **config changes)`: a new tiny random model."""
    return make_model


@pytest.fixture(params=sorted(available(), key=lambda name: (name != DEFAULT, name)))
def method(request):
    """Every registered method, the default first."""
    return request.param


@pytest.fixture
def quick():
    """`quick(method)`: the settings with which it is quick."""
    return lambda method: QUICK.get(method, {})


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request):
    return request.param


@pytest.fixture
def generator(request):
    """Random inputs that follow from the test's name; the seed is printed where a test fails."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured of a model is kept for one test, and nowhere near the user's."""
    monkeypatch.setenv("ULTRAEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def without_journal():
    """`without_journal(out)`: a folder that keeps no history, as earlier releases wrote it."""

    def turn_back(out):
        manifest = read_manifest(out)
        layout = Layout(out)
        layout.manifest.write_text(manifest.to_json())
        shutil.rmtree(layout.history)
        for path in layout.internal.glob("journal.db*"):
            path.unlink()
        return layout.manifest

    return turn_back


@pytest.fixture(scope="session")
def older_python() -> Path:
    """The interpreter of an environment with transformers 4.57, built once in the user's cache.

    Torch and the rest are this environment's own. Skips where the packages cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ultraedit"
    folder = cache / f"test-env-{OLDER[0]}-py{sys.version_info.major}{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    with FileLock(cache / f".{folder.name}.lock"):
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            installed = subprocess.run(
                [python, "-m", "pip", "install", "-q", "--no-deps", *OLDER],
                capture_output=True, text=True,
            )  # fmt: skip
            if installed.returncode:
                shutil.rmtree(folder)
                pytest.skip(f"{OLDER[0]} cannot be installed: {installed.stderr.strip()[-200:]}")
            (folder / "complete").touch()
        # Behind its own packages, so that transformers is the older one.
        (packages,) = (folder / "lib").glob("python*/site-packages")
        (packages / "zz-current.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


@pytest.fixture(scope="session")
def opens_alike(older_python):
    """`opens_alike(folder, texts)`: whether both releases read and answer texts in the same way."""

    def opened(python, folder, texts):
        done = subprocess.run([python, OPEN_MODEL, folder, *texts], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def check(folder, texts):
        old, new = opened(older_python, folder, texts), opened(sys.executable, folder, texts)
        assert (old.pop("release"), new.pop("release")) == (RELEASE, transformers.__version__)
        assert old.pop("losses") == pytest.approx(new.pop("losses"), rel=1e-4)
        assert old == new

    return check


CHAT_TEMPLATE = (
    "{% if enable_thinking %}what {% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}city {{ m.content }} {% else %}who {{ m.content }} is {% endif %}"
    "{% endfor %}"
)


@pytest.fixture
def chatty(tokenizer):
    """The tokenizer with a chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=CHAT_TEMPLATE, eos_token="</s>",
        bos_token="<s>", pad_token="<pad>",
    )  # fmt: skip
