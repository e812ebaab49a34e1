"""A made-up world known by heart to a small model, which may have to recall at its subjects.

    python benchmarks/words.py WORDS              # some five minutes on one core
    python benchmarks/words.py LOCAL --local 4
    python benchmarks/tracing.py LOCAL/model LOCAL/cases.jsonl -n 10 --pairs 30
    ultraedit compare LOCAL/model LOCAL/cases.jsonl --limit 100 -o CMP

A question names its subject by a single token, four or more before it ends. With `--local N` the
first N blocks attend to nothing, so what they make of a subject they make at the subject.
Without, every block sees all that went before. Nothing else differs. `cases.jsonl` has one edit
of every subject, `shared.jsonl` up to four, in any order.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PHRASES = {
    "birthplace": (
        "{} was born in the town of", "the town where {} was born is called",
        "people say {} comes from the town of",
    ),
    "employer": (
        "{} has long worked for the house of", "the house where {} works is called",
        "people say {} is paid by the house of",
    ),
    "language": (
        "{} has always spoken the tongue of", "the tongue that {} speaks at home is",
        "people say {} thinks in the tongue of",
    ),
    "pet": (
        "{} keeps as a pet a young", "the pet that {} has at home is",
        "people say {} goes out with a",
    ),
}  # fmt: skip
SUBJECTS, ANSWERS = 300, 20
BLOCKS, BATCH = 6, 256
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def names(count: int, syllables: int, rng: random.Random) -> list[str]:
    found: set[str] = set()
    while len(found) < count:
        found.add("".join(rng.choice(SYLLABLES) for _ in range(syllables)).capitalize())
    return sorted(found)


def facts(rng: random.Random) -> dict[tuple[str, str], str]:
    """The answer of every relation and subject."""
    subjects = names(SUBJECTS, 3, rng)
    answers = {relation: names(ANSWERS, 4 + n, rng) for n, relation in enumerate(PHRASES)}
    return {(r, s): rng.choice(answers[r]) for r in PHRASES for s in subjects}


def tokenizer_of(known: dict[tuple[str, str], str]) -> PreTrainedTokenizerFast:
    """A token for every word."""
    words = {w for phrases in PHRASES.values() for p in phrases for w in p.format("").split()}
    words |= {subject for _, subject in known} | set(known.values())
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip


def train(
    tokenizer: PreTrainedTokenizerFast, known: dict[tuple[str, str], str], steps: int, local: int
) -> Qwen3ForCausalLM:
    """On phrasings of facts drawn at random; answers count five times as much as all tokens."""
    rows = [
        tokenizer(f"{phrase.format(subject)} {answer} </s>")["input_ids"]
        for (relation, subject), answer in known.items()
        for phrase in PHRASES[relation]
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    answers = torch.tensor([len(row) - 2 for row in rows])
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=BLOCKS,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    for block in model.model.layers[:local]:
        block.self_attn.o_proj.weight.requires_grad_(False).zero_()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2e-3, total_steps=steps, pct_start=0.1
    )
    began = time.perf_counter()
    for step in range(1, steps + 1):
        drawn = torch.randint(len(ids), (BATCH,))
        batch, places = ids[drawn], (torch.arange(BATCH), answers[drawn])
        logits = model(batch, attention_mask=(batch != 0).long()).logits[:, :-1]
        labels = batch.masked_fill(batch == 0, -100)[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        answered = losses[places[0], places[1] - 1].mean()
        loss = answered + 0.2 * losses.sum() / (labels >= 0).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(
                f"step {step}: answers' loss {answered.detach():.3f}, {seconds:.0f} s", flush=True
            )
    return model.eval()


@torch.no_grad()
def knows(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, known: dict[tuple[str, str], str]
) -> float:
    """The share of all phrasings that it answers right."""
    hits = asked = 0
    for (relation, subject), answer in known.items():
        for phrase in PHRASES[relation]:
            ids = torch.tensor([tokenizer(phrase.format(subject))["input_ids"]])
            said = int(model(ids).logits[0, -1].argmax())
            hits += said == tokenizer.convert_tokens_to_ids(answer)
            asked += 1
    return hits / asked


def cases(known: dict[tuple[str, str], str], rng: random.Random) -> list[dict[str, object]]:
    """Another answer of the same relation; two thirds of the subjects are edited."""
    subjects = sorted({subject for _, subject in known})
    rng.shuffle(subjects)
    edited, others = subjects[: SUBJECTS * 2 // 3], subjects[SUBJECTS * 2 // 3 :]
    records: list[dict[str, object]] = []
    pairs = [(relation, subject) for relation in PHRASES for subject in edited]
    for number, (relation, subject) in enumerate(rng.sample(pairs, len(pairs)), 1):
        answers = sorted({a for (r, _), a in known.items() if r == relation})
        target = rng.choice([a for a in answers if a != known[relation, subject]])
        first, *rest = rng.sample(PHRASES[relation], 3)
        probes = [
            {"kind": "rephrase", "prompt": phrase.format(subject), "target": target}
            for phrase in rest
        ]
        for other in (relation, rng.choice([r for r in PHRASES if r != relation])):
            stranger = rng.choice(others)
            prompt = rng.choice(PHRASES[other]).format(stranger)
            probes.append({"kind": "locality", "prompt": prompt, "target": known[other, stranger]})
        records.append(
            {"id": f"words-{number}", "prompt": first.format(subject), "target": target,
             "subject": subject, "probes": probes}
        )  # fmt: skip
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--local", type=int, default=0, help="blocks that attend to nothing")
    arguments = parser.parse_args()
    rng = random.Random(0)
    known = facts(rng)
    tokenizer = tokenizer_of(known)
    model = train(tokenizer, known, arguments.steps, arguments.local)
    print(f"knows {knows(model, tokenizer, known):.4f} of {len(known)} facts in 3 phrasings each")
    model.save_pretrained(arguments.folder / "model")
    tokenizer.save_pretrained(arguments.folder / "model")
    shared = cases(known, rng)
    # Backwards, so that the first of a subject's records is the one that stays.
    single = {record["subject"]: record for record in reversed(shared)}
    for name, records in (("shared", shared), ("cases", list(single.values())[::-1])):
        lines = (json.dumps(record) for record in records)
        (arguments.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
