import torch

from ultraedit.history.effect import in_effect
from ultraedit.storage import Outline


def test_any_history_against_a_plain_simulation(generator):
    def draw(top):
        return int(torch.randint(top, (), generator=generator))

    for _ in range(100):
        outline = {0: Outline(0, "start", None, None, False)}
        states = {0: ((), frozenset())}
        for number in range(1, 25):
            turns, removed = states[number - 1]
            kind = ["turn", "turn", "undo", "undo-edit", "gap"][draw(5)]
            of = place = None
            if kind == "undo":
                of = draw(number)
                turns, removed = states[of]
            elif kind == "undo-edit" and turns:
                of, place = turns[draw(len(turns))], draw(3)
                removed = removed | {(of, place)}
            elif kind != "gap":
                kind = "turn"
                turns = (*turns, number)
            outline[number] = Outline(number, kind, of, place, kind == "turn")
            states[number] = (turns, removed)
        for number, (turns, removed) in states.items():
            found = in_effect(outline, number)
            assert found.turns == turns
            assert found.removed == removed
            assert set(turns) <= set(found.entries)
            assert list(found.entries) == sorted(found.entries)
