"""Where a model recalls at its subjects, as the papers' do, their settings write single edits.

See docs/comparison.md, which measures the same in a larger one.
"""

import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ultraedit import Case, Edit, Editor, Probe

PHRASES = {
    "home": ("{} has a home in the town of", "the town where {} lives is called"),
    "work": ("{} has long worked in the house of", "people say {} is paid by"),
}
SUBJECTS = [f"person{n}" for n in range(24)]
ANSWERS = {relation: [f"{relation}{n}" for n in range(6)] for relation in PHRASES}
# The blocks that MEMIT edits of six, and ROME's among them.
EARLY = 4


@pytest.fixture(scope="module")
def known():
    """The answer of every relation and subject."""
    rng = random.Random(0)
    return {(r, s): rng.choice(ANSWERS[r]) for r in PHRASES for s in SUBJECTS}


@pytest.fixture(scope="module")
def recalling(known, tmp_path_factory):
    """A model that knows them by heart; its early blocks attend to nothing."""
    sentences = [
        f"{phrase.format(subject)} {answer} </s>"
        for (relation, subject), answer in known.items()
        for phrase in PHRASES[relation]
    ]
    words = [
        "<pad>",
        "<s>",
        "<unk>",
        *sorted({word for line in sentences for word in line.split()}),
    ]
    own = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "<unk>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    ids = tokenizer(sentences, padding=True, return_tensors="pt", padding_side="right")["input_ids"]
    answers = (ids != 0).sum(1) - 2
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=6,
            num_attention_heads=4, max_position_embeddings=32, bos_token_id=1,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
        )
    )  # fmt: skip
    for block in model.model.layers[:EARLY]:
        block.self_attn.o_proj.weight.requires_grad_(False).zero_()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for _ in range(80):
        logits = model(ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        labels = ids.masked_fill(ids == 0, -100)[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        answered = losses[torch.arange(len(ids)), answers - 1].mean()
        optimiser.zero_grad()
        (answered + 0.2 * losses.sum() / (labels >= 0).sum()).backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("recalling")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_single_edits_are_written_and_nothing_else_with_default_settings(recalling, known, method):
    editor = Editor.from_pretrained(recalling, method=method, history="none")
    began = {name: master.copy() for name, master in editor.workbench.masters.items()}
    rng = random.Random(0)
    written = 0
    for relation, subject in rng.sample(sorted(known), 10):
        phrase, other = (one.format(subject) for one in PHRASES[relation])
        target = rng.choice([a for a in ANSWERS[relation] if a != known[relation, subject]])
        elsewhere = [
            Probe("locality", rng.choice(PHRASES[r]).format(s), answer)
            for (r, s), answer in known.items()
            if s != subject
        ]
        edit = Edit(phrase, target, subject)
        editor.edit([edit])
        case = Case(edit, (Probe("rephrase", other, target), *elsewhere))
        after = editor.evaluate([case], baseline=False).after
        written += after["efficacy"]["exact_match"] == after["rephrase"]["exact_match"] == 1
        assert after["locality"]["exact_match"] == 1
        editor.workbench.restore(began)
    # About eight. Where a model recalls elsewhere it is one at most.
    assert written > 5
