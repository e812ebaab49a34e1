"""`lr="auto"`: find eta on the first turn, by trying.

The shift is linear in eta, so one capture and one solve serve every candidate: its shift
is the unit shift scaled. A candidate is judged by how probable it makes the targets, and by
how far it moves the model's predictions over text that the model samples. A small first
turn says little about the turns to come, so it is filled up with made-up edits: the
beginning of one sampled text, with a piece of another as its target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.capture import Rows
from ultraedit.forward.score import Scored
from ultraedit.linalg.full_precision import full_precision
from ultraedit.linalg.shift import LowRank
from ultraedit.methods.base import Workbench

# A calibration turn has this many edits: the turn's own first, made-up ones up to it.
CALIBRATION_EDITS = 100
# Of them, a candidate is judged by so many: they are compared on the same texts, so that a few
# are enough to rank steps a quarter of a power of two apart.
JUDGED_EDITS = 32
WITNESS_TEXTS, TEXT_TOKENS = 16, 16
WITNESS_SEED, MATERIAL_SEED = 1, 2
TARGET_TOKENS = 2
# The climb goes in factors of two and ends by halving the step of the exponent this often.
REFINEMENTS = 2
MAX_STEPS = 12
USUAL_TRIALS = 8
# A first turn of fewer answer tokens is learned whole, growing its step by up to this many
# factors of the square root of two.
SMALL_TURN_TOKENS, GROWTHS = 32, 96

UnitShifts = Callable[[Mapping[str, Rows]], dict[str, LowRank]]


def choose_lr(
    workbench: Workbench,
    texts: Sequence[Encoded],
    rows: Mapping[str, Rows],
    unit_shifts: UnitShifts,
    witnesses: Sequence[Encoded],
) -> float:
    """The eta that balances learning and keeping best on a calibration turn.

    The search starts where a linear model of the loss would bring it to zero, climbs by
    factors of two until quality falls, and refines around the top.

    Args:
        workbench: The model before the first turn; unchanged afterwards.
        texts: The turn's edits.
        rows: Captured from them.
        unit_shifts: From captured rows to the shifts at eta = 1.
        witnesses: Text of the model's own, see `witness_texts`.

    Returns:
        eta; a function of the model and the turn alone.
    """
    edits = list(texts)
    if (missing := CALIBRATION_EDITS - len(edits)) > 0:
        # Some are too short to be cut.
        count = missing + missing // 8 + 2
        with workbench.progress("drawing text to try steps on", TEXT_TOKENS) as advance:
            material = workbench.sample(count, TEXT_TOKENS, MATERIAL_SEED, advance)
        edits += imaginary_edits(material, missing)
        rows = workbench.capture(edits)
    unit = unit_shifts(rows)
    guess = linear_guess(unit, rows, workbench.score(edits))
    return _climb(workbench, edits[:JUDGED_EDITS], unit, guess, witnesses)


def witness_texts(workbench: Workbench) -> list[Encoded]:
    """What a step is judged by beside the edits: text that the unedited model draws."""
    return workbench.sample(WITNESS_TEXTS, TEXT_TOKENS, WITNESS_SEED)


def choose_step(
    workbench: Workbench,
    texts: Sequence[Encoded],
    unit: Mapping[str, LowRank],
    lr: float,
    witnesses: Sequence[Encoded],
) -> float:
    """The step of a first turn that is smaller than a calibration turn.

    A hot fix is often the only turn there is, so this one turn is judged by itself, from
    `lr` on. A very small one is to be learned whole: its step grows, within bounds, until
    it is; where growing does not help, the step stands.
    """
    step = _climb(workbench, texts[:JUDGED_EDITS], unit, lr, witnesses)
    if sum(len(text.target) for text in texts) >= SMALL_TURN_TOKENS:
        return step
    for exponent in range(GROWTHS + 1):
        larger = step * 2.0 ** (exponent / 2)
        with workbench.trial({name: shift.scaled(larger) for name, shift in unit.items()}):
            if all(bool(scored.correct.all()) for scored in workbench.score(texts)):
                return larger
    return step


def _climb(
    workbench: Workbench,
    edits: Sequence[Encoded],
    unit: Mapping[str, LowRank],
    guess: float,
    witnesses: Sequence[Encoded],
) -> float:
    """The best step near `guess`: factors of two until quality falls, then finer."""
    before = workbench.score(witnesses)
    tried: dict[float, float] = {}

    def quality(exponent: float) -> float:
        if exponent not in tried:
            lr = guess * 2.0**exponent
            with workbench.trial({name: shift.scaled(lr) for name, shift in unit.items()}):
                tried[exponent] = balance(
                    workbench.score(edits), before, workbench.score(witnesses)
                )
        return tried[exponent]

    best = 0.0
    with workbench.progress("trying steps", USUAL_TRIALS) as advance:
        for direction in (1.0, -1.0):
            steps = 0
            while steps < MAX_STEPS and quality(best + direction) > quality(best):
                best, steps = best + direction, steps + 1
                advance(1)
        step = 1.0
        for _ in range(REFINEMENTS):
            step /= 2
            # On equal quality the smaller step wins: it moves less.
            best = max((best - step, best, best + step), key=lambda e: (quality(e), -e))
            advance(2)
    return guess * 2.0**best


def imaginary_edits(material: Sequence[Encoded], count: int) -> list[Encoded]:
    """Edits from sampled text: the beginning of one, a target from the middle of the next.

    Args:
        material: Sampled texts; those too short to be cut are left out.
        count: How many to make, as far as the material reaches.
    """
    usable = [text for text in material if len(text.target) > 2 * TARGET_TOKENS]
    edits = []
    for text, other in zip(usable, usable[1:] + usable[:1], strict=True):
        cut = len(text.target) - TARGET_TOKENS
        middle = (len(other.target) - TARGET_TOKENS) // 2
        target = other.target[middle : middle + TARGET_TOKENS]
        edits.append(Encoded(text.prompt + text.target[:cut], target, len(target)))
    return edits[: max(count, 0)]


@full_precision()
def linear_guess(
    unit: Mapping[str, LowRank], rows: Mapping[str, Rows], scored: Sequence[Scored]
) -> float:
    """Where the first-order change of the loss at eta = 1, extended, would use the loss up.

    It only sets the scale at which the search begins.
    """
    slope = 0.0
    for name, shift in unit.items():
        outputs = rows[name].inputs @ shift.left.T @ shift.right
        slope -= float((rows[name].gradients.to(outputs.device) * outputs).sum())
    loss = sum(float(one.losses.sum()) for one in scored)
    # A shift that does not descend at all has no scale to offer; any start will do.
    return loss / slope if slope > 0 and loss > 0 else 1.0


def balance(edits: Sequence[Scored], before: Sequence[Scored], after: Sequence[Scored]) -> float:
    """Quality of a step in [0, 1]: two parts learning, one part keeping.

    Learning is the mean probability of the target tokens that metrics count; it stands for
    efficacy and for rephrase, as in the mean that editors are compared by. Keeping is one
    minus the total variation distance between the next-token distributions before and
    after, over the model's own text: for tokens x drawn from p it is the mean of
    min(1, q(x) / p(x)), so the losses suffice.
    """
    kept = [
        float((old.losses - new.losses).exp().clamp(max=1).nan_to_num(0.0).mean())
        for old, new in zip(before, after, strict=True)
    ]
    return (2 * _probability(edits) + sum(kept) / len(kept)) / 3


def _probability(edits: Sequence[Scored]) -> float:
    """Mean over edits of the mean probability of a target token, appended end left out."""
    means = [float((-one.losses[: one.counted]).exp().nan_to_num(0.0).mean()) for one in edits]
    return sum(means) / len(means)
