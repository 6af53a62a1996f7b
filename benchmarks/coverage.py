"""How often the intervals of `eval.stats` hold what they are of, over simulated runs.

The truth is known because it is drawn: people, prompts and noise have mean 0, rates a given mean.
Skewed people are exponential, the harder case of those that cosines show. numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.compare import Comparison, failures
from eval.stats import holm, mean_of_pairs, paired_difference, summarise
from eval.units import Units, units_of
from eval.verification import Verification, verification

__all__ = ["run"]

Floats = NDArray[np.float64]
_RATES = (0.5, 0.7, 0.85, 0.9, 0.95, 0.98)
# The part of a picture's variance that its person explains, where rates are counted.
_RATE_CORRELATIONS = (0.1, 0.3)
_METRICS, _METHODS = 6, 5


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Simulates and counts.

    Args:
        arguments: runs (simulated, of each case), people (their numbers), seed.

    Returns:
        Shares of runs. `mean_KIND_P`: interval of a mean of P people holds the true mean;
        `prompts_KIND_PxC`: people and C prompts both drawn; `seeds_P`: seeds of three prompts in
        two styles; `difference_KIND_P`, `difference_prompts_P`: paired differences; `rate_P`:
        Wilson's, mean over rates from 0.5 to 0.98; `pairs_P`: mean cosine of pairs of people.
        `lowest_of_5`, `lowest`, `highest`: of all those, with five people and with more;
        `eer_P`, `tar_P`: error rates of verification, `lowest_verification` of them: with few
        people they are wider than they need be, so that there is no highest;
        `marks_P`: tables of differences of nothing with a mark; `gate_false_alarms`,
        `gate_false_alarms_margin`: of 28 pictures of 7 people; `gate_power`: a loss of as much as
        the gate says that it sees four times in five.
    """
    rng = np.random.default_rng(arguments["seed"])
    runs, sizes = arguments["runs"], arguments["people"]
    figures: dict[str, float] = {}
    kinds: dict[str, Callable[[Any], Floats]] = {
        "normal": lambda shape: rng.normal(size=shape),
        "skewed": lambda shape: rng.exponential(size=shape) - 1,
    }
    for people in sizes:
        for kind, draw in kinds.items():
            figures[f"mean_{kind}_{people}"] = _share(runs, partial(_mean, rng, draw, people))
            figures[f"difference_{kind}_{people}"] = _share(
                runs, partial(_difference, rng, draw, people)
            )
        for prompts in (4, 8):
            figures[f"prompts_normal_{people}x{prompts}"] = _share(
                runs, partial(_prompts, rng, people, prompts)
            )
        figures[f"prompts_skewed_{people}x8"] = _share(
            runs, partial(_prompts, rng, people, 8, kinds["skewed"])
        )
        figures[f"difference_prompts_{people}"] = _share(
            runs, partial(_difference_over_prompts, rng, people)
        )
        figures[f"seeds_{people}"] = _share(runs, partial(_seeds, rng, people))
        figures[f"rate_{people}"] = float(
            np.mean([_share(runs // 4, partial(_rate, rng, people, r)) for r in _RATES])
        )
        figures[f"pairs_{people}"] = _share(runs // 2, partial(_pairs, rng, people))
    fives = [value for name, value in figures.items() if name.endswith("_5") or "_5x" in name]
    others = [value for name, value in figures.items() if value not in fives]
    for name, values, end in (
        ("lowest_of_5", fives, min),
        ("lowest", others, min),
        ("highest", [*fives, *others], max),
    ):
        if values:
            figures[name] = end(values)
    eer, tar = _verification_truth(rng, max(20, runs // 20))
    for people in sizes:
        made = [_verified(rng, people) for _ in range(runs // 8)]
        figures[f"eer_{people}"] = float(np.mean([_holds(one.eer, eer) for one in made]))
        tars = [one.tar[0.1] for one in made if one.tar[0.1] is not None]
        if tars:  # five people have too few impostor pairs
            figures[f"tar_{people}"] = float(np.mean([_holds(one, tar) for one in tars]))
    figures["lowest_verification"] = min(
        value for name, value in figures.items() if name.startswith(("eer_", "tar_"))
    )
    for people in (20, 50):
        figures[f"marks_{people}"] = _share(runs // 4, partial(_marks, rng, people))
    figures |= _gate(rng, runs)
    return figures


def _share(runs: int, one: Callable[[], bool]) -> float:
    return float(np.mean([one() for _ in range(runs)]))


def _holds(found: Any, truth: float = 0.0) -> bool:
    return bool(found.low <= truth <= found.high)


def _names(people: int, each: int) -> NDArray[np.str_]:
    return np.repeat(np.arange(people), each).astype(str)


def _crossed(people: int, prompts: int) -> Units:
    """One style and seed: person by person, each prompt once."""
    labels = np.tile(np.arange(prompts), people)
    return units_of(labels, np.zeros_like(labels), np.zeros_like(labels))


def _mean(rng: np.random.Generator, draw: Callable[[Any], Floats], people: int) -> bool:
    values = draw((people, 1)) + 0.5 * rng.normal(size=(people, 4))
    return _holds(summarise(values.ravel(), _names(people, 4)))


def _difference(rng: np.random.Generator, draw: Callable[[Any], Floats], people: int) -> bool:
    shared = rng.normal(size=(people, 4))
    ours = shared + 0.5 * draw((people, 1)) + 0.5 * rng.normal(size=(people, 4))
    return _holds(paired_difference(ours.ravel(), shared.ravel(), _names(people, 4)))


def _prompts(
    rng: np.random.Generator,
    people: int,
    prompts: int,
    draw: Callable[[Any], Floats] | None = None,
) -> bool:
    who = draw((people, 1)) if draw else rng.normal(size=(people, 1))
    values = who + rng.normal(size=(1, prompts)) + rng.normal(size=(people, prompts))
    return _holds(summarise(values.ravel(), _names(people, prompts), _crossed(people, prompts)))


def _difference_over_prompts(rng: np.random.Generator, people: int) -> bool:
    prompts = 6
    shared = rng.normal(size=(people, prompts)) + rng.normal(size=(1, prompts))
    ours = shared + 0.3 * rng.normal(size=(people, 1)) + 0.3 * rng.normal(size=(1, prompts))
    ours += 0.3 * rng.normal(size=shared.shape)
    names = _names(people, prompts)
    return _holds(paired_difference(ours.ravel(), shared.ravel(), names, _crossed(people, prompts)))


def _seeds(rng: np.random.Generator, people: int) -> bool:
    """Three prompts in two styles that stand fixed, two seeds each that are drawn."""
    prompts, styles, seeds = (
        part.ravel() for part in np.meshgrid(range(3), range(2), range(2), indexing="ij")
    )
    fixed = np.repeat(np.array([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), 2)
    values = rng.normal(size=(people, 1)) + fixed + 1.5 * rng.normal(size=(1, 12))
    values = values + rng.normal(size=(people, 12))
    units = units_of(*(np.tile(part, people) for part in (prompts, styles, seeds)))
    return _holds(summarise(values.ravel(), _names(people, 12), units))


def _rate(rng: np.random.Generator, people: int, rate: float) -> bool:
    scale = 1 / float(rng.choice(_RATE_CORRELATIONS)) - 1
    own = rng.beta(rate * scale, (1 - rate) * scale, size=(people, 1))
    values = (rng.random((people, 4)) < own).astype(float)
    return _holds(summarise(values.ravel(), _names(people, 4), rate=True), rate)


def _pairs(rng: np.random.Generator, people: int) -> bool:
    """Directions around a common one: the expected cosine of two people is its squared length."""
    features = rng.normal(size=(people, 32)) / np.sqrt(32)
    features[:, 0] += 0.5 + 0.3 * rng.normal(size=people)
    return _holds(mean_of_pairs(features), _TRUE_PAIR)


def _true_pair() -> float:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200_000, 32)) / np.sqrt(32)
    features[:, 0] += 0.5 + 0.3 * rng.normal(size=len(features))
    return mean_of_pairs(features).mean


_TRUE_PAIR = _true_pair()


def _verified(rng: np.random.Generator, people: int) -> Verification:
    """Four pictures of each of some people against a photo of each, in 16 dimensions."""
    centres = rng.normal(size=(people, 16))
    made = np.repeat(centres, 4, axis=0)
    made = made + 1.8 * rng.normal(size=made.shape)
    real = centres + 0.5 * rng.normal(size=centres.shape)
    names = np.arange(people).astype(str)
    found = verification(made, np.repeat(names, 4).tolist(), real, names.tolist())
    if found is None:
        raise RuntimeError("no pairs of people to verify")
    return found


def _verification_truth(rng: np.random.Generator, runs: int) -> tuple[float, float]:
    """Equal error rate, and true accepts at a false accept rate of 0.1, of people without end."""
    made = [_verified(rng, 50) for _ in range(runs)]
    tars = [one.tar[0.1] for one in made]
    return (
        float(np.mean([one.eer.mean for one in made])),
        float(np.mean([one.mean for one in tars if one is not None])),
    )


def _marks(rng: np.random.Generator, people: int) -> bool:
    """Whether a table of differences of nothing has a mark."""
    names = _names(people, 4)
    table = [
        paired_difference(
            (0.5 * rng.normal(size=(people, 1)) + rng.normal(size=(people, 4))).ravel(),
            np.zeros(4 * people),
            names,
        )
        for _ in range(_METRICS * _METHODS)
    ]
    return any(one.marked for one in holm(table))


def _gate(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """28 pictures of 7 people, margins 0 and 0.02, true losses equal to them, and a real one."""

    def alarm(margin: float, loss: float) -> tuple[bool, float]:
        people = 7
        change = 0.02 * rng.normal(size=(people, 1)) + 0.05 * rng.normal(size=(people, 4)) - loss
        found = paired_difference(change.ravel(), np.zeros(28), _names(people, 4))
        row = Comparison.of("method", "identity_facenet", True, 0.5, 0.5, found)
        gate = failures([row], {"identity_facenet": margin})
        return bool(gate.fallen), gate.tests[0].seen

    squares = [(alarm(0.02, 0.02)[1] - 0.02) ** 2 for _ in range(500)]
    seen = 0.02 + float(np.sqrt(np.mean(squares)))
    return {
        "gate_false_alarms": float(np.mean([alarm(0.0, 0.0)[0] for _ in range(runs)])),
        "gate_false_alarms_margin": float(np.mean([alarm(0.02, 0.02)[0] for _ in range(runs)])),
        "gate_power": float(np.mean([alarm(0.02, seen)[0] for _ in range(runs)])),
    }
