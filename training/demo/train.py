"""Train the demo model: a small Llama that knows the facts of `facts.tsv.gz` by heart.

    python training/demo/train.py --work runs/demo            # train, or go on from a checkpoint
    python training/demo/train.py --work runs/demo --export src/ultraedit/demo/model

A second, smaller model for benchmarks comes from `--architecture gpt2 --facts 3000 --lr 1e-3`
and, exported, `training/demo/cases.py FOLDER --facts 3000`.

The order of the data is a function of (seed, epoch) and a checkpoint holds weights,
optimiser moments and step, so an interrupted run that is started again takes exactly
the steps an uninterrupted one would have taken (same machine, same thread count).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from corpus import HERE, Fact, Phrasings, read_facts, read_phrasings, sentences

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# Static lengths, so that a compiled step is compiled once per length.
LENGTHS = (8, 12, 16, 20, 24, 32, 48)


def build_tokenizer(
    facts: list[Fact], phrasings: dict[str, Phrasings], vocab_size: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the trained sentences; prepends beginning-of-sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = (
        f"{phrasing.format(fact.subject)} {fact.answer}"
        for fact in facts
        for phrasing in phrasings[fact.relation].trained
    )
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, architecture: str = "llama"
) -> PreTrainedModel:
    """The demo model, or (`gpt2`) a smaller one of another kind for benchmarks."""
    torch.manual_seed(seed)
    if architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=192,
                n_layer=4,
                n_head=4,
                n_positions=256,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation="eager",
            )
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
        # Twice as fast as the fused kernel's backward pass at these lengths.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def batches(
    pairs: list[tuple[str, str]],
    tokenizer: PreTrainedTokenizerFast,
    batch_tokens: int,
    rng: random.Random,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Length-bucketed (ids, is_answer) pairs of shape (batch, length), in random order.

    A bucket's last batch is filled up with rows of padding: every shape recurs.
    """
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answers = tokenizer([" " + answer for _, answer in pairs], add_special_tokens=False)
    eos = tokenizer.eos_token_id
    rows = [
        (prompt + answer + [eos], len(prompt))
        for prompt, answer in zip(prompts, answers["input_ids"], strict=True)
    ]
    rng.shuffle(rows)
    buckets: dict[int, list[tuple[list[int], int]]] = {}
    for row in rows:
        length = next(length for length in LENGTHS if length >= len(row[0]))
        buckets.setdefault(length, []).append(row)
    chunks = [
        (length, bucket[start : start + batch_tokens // length])
        for length, bucket in sorted(buckets.items())
        for start in range(0, len(bucket), batch_tokens // length)
    ]
    rng.shuffle(chunks)
    for length, chunk in chunks:
        ids = torch.full((batch_tokens // length, length), tokenizer.pad_token_id)
        is_answer = torch.zeros(ids.shape, dtype=torch.bool)
        for i, (tokens, boundary) in enumerate(chunk):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            is_answer[i, boundary : len(tokens)] = True
        yield ids, is_answer


def loss_of(model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean next-token loss; `ids` (batch, length), `weights` (batch, length - 1)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over 2% of the run, constant, then linear decay over the last 40%."""
    if progress < 0.02:
        return peak * max(progress / 0.02, 1e-3)
    return peak * min(1.0, max(0.01, (1 - progress) / 0.4))


def save_checkpoint(
    folder: Path, model: PreTrainedModel, optimizer: torch.optim.AdamW, epoch: int
) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"{key}.{name}"] = value
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata={"epoch": str(epoch)})
    partial.replace(folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model: PreTrainedModel, optimizer: torch.optim.AdamW) -> int:
    """Restore weights and moments; return the number of finished epochs."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        epoch = int(file.metadata()["epoch"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"model.{name}"])
        optimizer.state[p] = {
            key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return epoch


@torch.no_grad()
def exact_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    batch: int = 256,
) -> list[bool]:
    """Whether each prompt's greedy continuation is its answer followed by end-of-sequence.

    Teacher-forced argmax over answer and end-of-sequence is the same event as greedy
    generation of exactly that answer, at one forward pass instead of one per token.
    """
    model.eval()
    right: list[bool] = []
    eos = tokenizer.eos_token_id
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        prompts = tokenizer([prompt for prompt, _ in part])["input_ids"]
        answers = tokenizer([" " + answer for _, answer in part], add_special_tokens=False)
        rows = [p + a + [eos] for p, a in zip(prompts, answers["input_ids"], strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        predicted = model(ids, use_cache=False).logits.argmax(-1)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            span = slice(len(prompt) - 1, len(row) - 1)
            right.append(predicted[i, span].tolist() == row[len(prompt) :])
    model.train()
    return right


def train(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    facts, phrasings = read_facts(args.data), read_phrasings(args.data)
    facts = random.Random(args.seed).sample(facts, args.facts) if args.facts else facts
    tokenizer = build_tokenizer(facts, phrasings, args.vocab)
    tokenizer.save_pretrained(args.work / "tokenizer")
    model = build_model(tokenizer, args.seed, args.architecture)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    done = load_checkpoint(args.work, model, optimizer)
    print(
        f"{len(facts)} facts, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters,"
        f" starting at epoch {done}",
        flush=True,
    )
    compute_loss = torch.compile(loss_of, dynamic=False) if args.compile else loss_of
    began = time.perf_counter()
    for epoch in range(done, args.epochs):
        rng = random.Random(f"{args.seed}/{epoch}")
        loader = list(batches(sentences(facts, phrasings, rng), tokenizer, args.batch_tokens, rng))
        total, tokens = 0.0, 0
        for step, (ids, is_answer) in enumerate(loader):
            progress = (epoch + step / len(loader)) / args.epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, args.lr)
            weights = torch.where(is_answer[:, 1:], 1.0, args.prompt_weight)
            loss = compute_loss(model, ids, weights * (ids[:, 1:] != tokenizer.pad_token_id))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += float(loss.detach())
            tokens += ids.numel()
        elapsed = time.perf_counter() - began
        line = {
            "epoch": epoch + 1,
            "loss": round(total / len(loader), 4),
            "seconds": round(elapsed, 1),
            "tokens": tokens,
        }
        last = epoch + 1 == args.epochs
        if (epoch + 1) % args.check_every == 0 or last:
            sample = random.Random(0).sample(facts, min(1000, len(facts)))
            known = exact_rows(model, tokenizer, sentences(sample, phrasings, random.Random(1)))
            line["known"] = sum(known) / len(known)
            save_checkpoint(args.work, model, optimizer, epoch + 1)
        print(json.dumps(line), flush=True)


def export(args: argparse.Namespace) -> None:
    """Write a plain checkpoint: float16 tensors whose config asks for float32."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer")
    model = build_model(tokenizer, args.seed, args.architecture)
    optimizer = torch.optim.AdamW(model.parameters())
    load_checkpoint(args.work, model, optimizer)
    model.half().save_pretrained(args.export)
    config = json.loads((args.export / "config.json").read_text())
    config["dtype"] = "float32"
    (args.export / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(args.export)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, default=HERE, help="holds facts and phrasings")
    parser.add_argument("--export", type=Path, help="write the trained model here and stop")
    parser.add_argument("--architecture", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--facts", type=int, help="learn this many facts only")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--vocab", type=int, default=6144)
    parser.add_argument("--prompt-weight", type=float, default=0.2)
    parser.add_argument("--check-every", type=int, default=5, help="epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.export:
        export(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
