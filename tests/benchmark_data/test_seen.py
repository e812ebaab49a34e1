import random

from ultraedit.benchmark_data.seen import Seen, hashed


def test_it_knows_what_a_set_knows():
    chance = random.Random(3)
    seen, known = Seen(), set()
    for _ in range(40):
        keys = [f"key {chance.randrange(3000)}" for _ in range(chance.randrange(200))]
        wanted = []
        for key in keys:
            wanted.append(key not in known)
            known.add(key)
        assert seen.add([hashed(key) for key in keys]) == wanted
    assert len(seen._runs) < 10
