import asyncio
import math

import pytest
import torch
from transformers import GenerationConfig

from overlays import names_of, random_overlay, with_weights
from ultraedit.service.batcher import Batcher
from ultraedit.service.errors import ApiError
from ultraedit.service.overlay import NOTHING
from ultraedit.service.sampling import Sampling

STOP = 2


@pytest.fixture
def batcher_of():
    made = []

    def make(model, stops=(STOP,), **options):
        made.append(Batcher(model, set(stops), **options))
        return made[-1]

    yield make
    for one in made:
        assert one.close(30)


async def read(generation):
    return [token async for token in generation], generation.finish


def expected(model, prompt, count, stops=(STOP,)):
    """Greedy tokens by transformers, alone in its batch."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=list(stops) or None, pad_token_id=0
    )
    model.generation_config = GenerationConfig()
    made = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
    return [token for token in made.tolist() if token not in stops]


def random_prompts(generator, lengths):
    return [torch.randint(3, 400, (n,), generator=generator).tolist() for n in lengths]


def test_each_generation_is_what_its_own_weights_say(build, architecture, generator, batcher_of):
    model = build(architecture)
    overlays = [NOTHING, *(random_overlay(model, names_of(model), k, generator) for k in (1, 4))]
    prompts = random_prompts(generator, (3, 17, 9, 1, 12, 26, 5))
    chosen = [overlays[place % 3] for place in range(len(prompts))]
    counts = [12, 3, 25, 8, 1, 19, 30]
    batcher = batcher_of(model, most_rows=4)

    async def run():
        running = []
        for prompt, overlay, count in zip(prompts, chosen, counts, strict=True):
            made = batcher.submit(prompt, overlay, Sampling(count, temperature=0))
            running.append(asyncio.ensure_future(read(made)))
            # Some join while others are in the middle.
            await asyncio.sleep(0.01)
        return await asyncio.gather(*running)

    found = asyncio.run(run())
    for (tokens, finish), prompt, overlay, count in zip(
        found, prompts, chosen, counts, strict=True
    ):
        said = expected(with_weights(build, architecture, overlay), prompt, count)
        assert [token.id for token in tokens] == said
        assert finish == ("length" if len(said) == count else "stop")
    assert batcher.idle()


def test_a_prompt_is_scored_in_parts(build, generator, batcher_of, monkeypatch):
    monkeypatch.setattr("ultraedit.service.batcher.SCORED_AT_ONCE", 5)
    model = build("llama")
    overlay = random_overlay(model, names_of(model), 2, generator)
    (prompt,) = random_prompts(generator, (13,))
    batcher = batcher_of(model)

    async def run():
        made = batcher.submit(prompt, overlay, Sampling(0), top=3, score_prompt=True)
        return await read(made), made.prompt_tokens

    (tokens, finish), scored = asyncio.run(run())
    assert (tokens, finish) == ([], "length")
    whole = with_weights(build, "llama", overlay).double()
    with torch.no_grad():
        logits = whole(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert [token.id for token in scored] == prompt
    assert math.isnan(scored[0].logprob)
    for place, token in enumerate(scored[1:]):
        assert token.logprob == pytest.approx(float(logits[place, token.id]), abs=1e-4)
        best = logits[place].topk(3)
        assert [name for name, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_what_is_drawn_with_a_seed_does_not_depend_on_its_companions(build, generator, batcher_of):
    batcher = batcher_of(build("llama"), stops=())
    prompts = random_prompts(generator, (4, 9, 6))
    sampling = Sampling(20, temperature=1.5, top_p=0.9, seed=7)

    async def run(others):
        made = [batcher.submit(prompts[0], NOTHING, sampling)]
        made += [batcher.submit(p, NOTHING, Sampling(9, seed=1)) for p in others]
        return [token.id for token in (await asyncio.gather(*map(read, made)))[0][0]]

    alone = asyncio.run(run([]))
    assert alone == asyncio.run(run(prompts[1:]))
    assert len(set(alone)) > 3


def test_stops_limits_and_what_is_cancelled(build, generator, batcher_of):
    model = build("llama")
    (prompt,) = random_prompts(generator, (6,))
    free = expected(model, prompt, 30, stops=())
    stop = free[4]
    batcher = batcher_of(model, stops=(stop,), most_waiting=2)

    async def run():
        tokens, finish = await read(batcher.submit(prompt, NOTHING, Sampling(30, temperature=0)))
        assert [token.id for token in tokens] == free[: free.index(stop)]
        assert finish == "stop"
        for wrong, status in (((), 400), (prompt * 12, 400)):
            with pytest.raises(ApiError) as caught:
                batcher.submit(wrong, NOTHING, Sampling(30))
            assert caught.value.status == status
        assert batcher.context_length == 64
        long = batcher.submit(prompt, NOTHING, Sampling(50, temperature=2.0, seed=1))
        await anext(long)
        long.cancel()
        while not batcher.idle():
            await asyncio.sleep(0.01)
        batcher.drain()
        assert not batcher.accepting
        with pytest.raises(ApiError) as caught:
            batcher.submit(prompt, NOTHING, Sampling(3))
        assert caught.value.status == 503

    asyncio.run(run())


def test_a_pass_that_fails_ends_its_generations_and_no_others(build, batcher_of, monkeypatch):
    model = build("llama")
    batcher = batcher_of(model)
    good = model.forward

    def fails(*args, **options):
        raise RuntimeError("on purpose")

    async def run():
        monkeypatch.setattr(model, "forward", fails)
        with pytest.raises(ApiError) as caught:
            await read(batcher.submit([3, 4], NOTHING, Sampling(3)))
        assert caught.value.status == 500
        assert "purpose" not in str(caught.value)
        monkeypatch.setattr(model, "forward", good)
        tokens, _ = await read(batcher.submit([3, 4], NOTHING, Sampling(3, temperature=0)))
        assert [token.id for token in tokens] == expected(model, [3, 4], 3)

    asyncio.run(run())


def test_rows_that_cannot_be_padded_run_by_themselves(batcher_of, generator):
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=400, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    model = transformers.MambaForCausalLM(config).eval()
    prompts = random_prompts(generator, (3, 8, 5))
    batcher = batcher_of(model)

    async def run():
        made = [batcher.submit(p, NOTHING, Sampling(7, temperature=0)) for p in prompts]
        return await asyncio.gather(*map(read, made))

    for (tokens, _), prompt in zip(asyncio.run(run()), prompts, strict=True):
        assert [token.id for token in tokens] == expected(model, prompt, 7)
