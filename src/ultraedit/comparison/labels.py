"""Places for labels beside points: inside the picture, on no mark, and on no other label."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
# left, bottom, right, top; in any unit that all of them share
Box = tuple[float, float, float, float]

# Beside a point first, then above and below, then aslant: that is how pictures are read.
ANGLES = (0, 180, 90, 270, *(a for a in range(15, 360, 15) if a % 90))
# From a mark's edge to its label, in radii of the mark.
DISTANCES = (1, 2, 3.5, 5.5, 8, 11, 15, 20, 26)
# What speaks against a place: an area that is cut off or covered, in units of a mark's; a line
# between mark and label that crosses something; another mark that is as near to the label; the
# line's length, in radii; each angle that would be easier to read.
CUT_OFF, COVERED, CROSSED, MISTAKEN, FAR, ASLANT = 1000.0, 30.0, 60.0, 10.0, 1.0, 0.2
STARTS = 40
SEED = 0


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    radius: float,
) -> list[Box]:
    """A box for every label; where there is room, none covers another, a mark or a line.

    The same points give the same places: labels choose in turn, knowing the others, until none
    wants another place, from several beginnings; the best end counts.

    Args:
        points: Where the marks are.
        sizes: (width, height) of each point's label.
        bounds: What the labels are to lie in.
        radius: Of a mark.
    """
    marks = np.array(points, dtype=float)
    boxes = _candidates(marks, np.array(sizes, dtype=float), radius).astype(np.float32)
    marks = marks.astype(np.float32)
    own = _alone(boxes, marks, np.array(bounds), radius)
    shared = _together(boxes, marks, radius)
    chance = random.Random(SEED)
    best, least = np.zeros(len(points), dtype=int), np.inf
    for _ in range(STARTS):
        chosen = _settled(own, shared, chance)
        fault = _total(own, shared, chosen)
        if fault < least:
            best, least = chosen, fault
    found = boxes[np.arange(len(points)), best]
    return [(box[0], box[1], box[2], box[3]) for box in found.tolist()]


def nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """The point of a box that is nearest to another point."""
    left, bottom, right, top = box
    return min(max(point[0], left), right), min(max(point[1], bottom), top)


def _candidates(marks: Floats, sizes: Floats, radius: float) -> Floats:
    """(n, c, 4) boxes around each of n points, near ones first."""
    reach = np.repeat(radius * (1 + np.array(DISTANCES)), len(ANGLES))[:, None]
    angles = np.radians(np.tile(ANGLES, len(DISTANCES)))
    aim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    half = sizes[:, None] / 2
    centres = marks[:, None] + aim * (reach + half)
    return np.concatenate([centres - half, centres + half], axis=2)


def _alone(boxes: Floats, marks: Floats, bounds: Floats, radius: float) -> Floats:
    """(n, c) faults of each candidate that do not depend on other labels."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    outside = sizes[..., 0] * sizes[..., 1] - _overlap(boxes, bounds)
    ends = _ends(boxes, marks)
    length = np.linalg.norm(ends - marks[:, None], axis=2)
    spots = np.concatenate([marks - radius, marks + radius], axis=1)
    covered = _covered(boxes[:, :, None], spots, radius)
    # From its own mark every line begins; so it does from marks in the same place.
    others = np.linalg.norm(marks[:, None] - marks, axis=2) > radius
    crossed = _meet(marks[:, None, None], ends[:, :, None], spots) & others[:, None]
    gaps = np.clip(marks, boxes[:, :, None, :2], boxes[:, :, None, 2:]) - marks
    mistaken = (np.linalg.norm(gaps, axis=3) < length[:, :, None] + radius) & others[:, None]
    area = (2 * radius) ** 2
    return (
        CUT_OFF * outside / area
        + covered.sum(2)
        + CROSSED * crossed.sum(2)
        + MISTAKEN * mistaken.sum(2)
        + FAR * length / radius
        + ASLANT * np.tile(np.arange(len(ANGLES)), len(DISTANCES))
    )


def _together(boxes: Floats, marks: Floats, radius: float) -> Floats:
    """(n, c, n, c) faults of every two candidates of different points."""
    count, choices = boxes.shape[:2]
    faults = np.zeros((count, choices, count, choices), dtype=np.float32)
    ends, wide = _ends(boxes, marks), _grown(boxes, radius / 2)
    for n in range(count):
        begin, end, box = marks[n], ends[n][:, None, None], boxes[n][:, None, None]
        crossed = _meet(begin, end, wide).astype(np.float32)
        crossed += _meet(marks[:, None], ends, _grown(box, radius / 2))
        crossed += _cross(begin, end, marks[:, None], ends)
        faults[n] = CROSSED * crossed + _covered(box, boxes, radius)
        faults[n, :, n] = 0
    return faults


def _covered(box: Floats, other: Floats, radius: float) -> Floats:
    """The fault of two boxes that share some place, or nearly do."""
    near = _overlap(_grown(box, radius / 2), other) / (2 * radius) ** 2
    return COVERED * near + CROSSED * (_overlap(box, other) > 0)


def _settled(own: Floats, shared: Floats, chance: random.Random) -> NDArray[np.int_]:
    """Each label's candidate when, choosing in turn, none wants another."""
    count, choices = own.shape
    chosen = np.array([chance.randrange(choices) for _ in range(count)])
    order = chance.sample(range(count), count)
    places = np.arange(count)
    for _ in range(choices):
        before = chosen.copy()
        for n in order:
            chosen[n] = np.argmin(own[n] + shared[n][:, places, chosen].sum(1))
        if (chosen == before).all():
            break
    return chosen


def _total(own: Floats, shared: Floats, chosen: NDArray[np.int_]) -> float:
    places = np.arange(len(chosen))
    pairs = shared[places[:, None], chosen[:, None], places, chosen]
    return float(own[places, chosen].sum() + pairs.sum() / 2)


def _ends(boxes: Floats, marks: Floats) -> Floats:
    """Where the line from each mark reaches each of its candidates."""
    return np.clip(marks[:, None], boxes[..., :2], boxes[..., 2:])


def _grown(boxes: Floats, by: float) -> Floats:
    return boxes + by * np.array([-1, -1, 1, 1])


def _overlap(first: Floats, second: Floats) -> Floats:
    """The area that two boxes share."""
    sides = (
        np.minimum(first[..., at + 2], second[..., at + 2])
        - np.maximum(first[..., at], second[..., at])
        for at in (0, 1)
    )
    wide, high = (np.maximum(side, 0) for side in sides)
    return wide * high


def _meet(begin: Floats, end: Floats, box: Floats) -> NDArray[np.bool_]:
    """Whether a line goes through a box."""
    first, last = [], []
    for at in (0, 1):
        step = end[..., at] - begin[..., at]
        step = np.where(step == 0, 1e-9, step)
        one, other = (box[..., side] - begin[..., at] for side in (at, at + 2))
        first.append(np.minimum(one / step, other / step))
        last.append(np.maximum(one / step, other / step))
    entered = np.maximum(np.maximum(*first), 0)
    found: NDArray[np.bool_] = entered < np.minimum(np.minimum(*last), 1)
    return found


def _cross(begin: Floats, end: Floats, other_begin: Floats, other_end: Floats) -> Any:
    """Whether two lines cross."""

    def side(a: Floats, b: Floats, spot: Floats) -> Floats:
        along, aside = b - a, spot - a
        return along[..., 0] * aside[..., 1] - along[..., 1] * aside[..., 0]

    parted = side(begin, end, other_begin) * side(begin, end, other_end) < 0
    return parted & (side(other_begin, other_end, begin) * side(other_begin, other_end, end) < 0)
