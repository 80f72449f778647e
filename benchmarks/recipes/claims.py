"""Published claims about sampling as comparisons that can fail; the sentences follow from the intervals."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Literal, NamedTuple

from benchmarks.recipes.methods import STOCHASTIC, Method
from benchmarks.recipes.results import TITLES, Results
from training.measures import Estimate

Sense = Literal["less", "more", "not less"]
HOLDS, OPPOSITE = ("holds", "no difference found"), "the opposite holds"


class Comparison(NamedTuple):
    """At so many calls, ``method`` has less, more or not less of a measure than ``against``."""

    method: str
    against: str
    calls: int
    measure: str
    sense: Sense


class Claim(NamedTuple):
    """A sentence from the literature with its source, and what must be seen if it holds here."""

    sentence: str
    tests: list[Comparison]


def claims(methods: Mapping[str, Method]) -> list[Claim]:
    """All claims; tests whose methods are not among those measured at these calls are left out."""
    found = [*SCHEDULES, *_scaling(methods), *GUIDANCE, *_fitted(methods), *SAMPLERS, *_distilled(methods)]
    there = {claim.sentence: [test for test in claim.tests if _measured(test, methods)] for claim in found}
    return [Claim(sentence, tests) for sentence, tests in there.items() if tests]


def verdict(difference: Estimate, sense: Sense) -> str:
    """What the interval of method minus against says."""
    if difference.low <= 0 <= difference.high:
        return "no difference found" if sense == "not less" else "not distinguishable"
    return "holds" if (difference.high < 0) == (sense == "less") else OPPOSITE


def summary(verdicts: Sequence[str]) -> str:
    """What all tests of a claim say together."""
    for_it, against = sum(v in HOLDS for v in verdicts), sum(v == OPPOSITE for v in verdicts)
    if for_it == len(verdicts):
        return "Holds here."
    if for_it:
        undecided = len(verdicts) - for_it - against
        return (
            f"Holds here in {for_it} of {len(verdicts)} comparisons; the opposite in {against}, {undecided} undecided."
        )
    return "Does not hold here." if against else "Not seen here: nothing to be told apart."


def sentences(results: Results) -> list[str]:
    """Markdown: every claim with what it amounts to, then its tests: both values, paired difference and verdict."""
    lines = []
    for claim in claims(results.methods):
        pairs = {test: results.difference(test.method, test.against, test.calls, test.measure) for test in claim.tests}
        found = {test: difference for test, difference in pairs.items() if not isnan(difference.mean)}
        verdicts = [verdict(difference, test.sense) for test, difference in found.items()]
        lines += ["", f"**{claim.sentence} {summary(verdicts)}**", ""]
        for (test, difference), said in zip(found.items(), verdicts, strict=True):
            pair = [results.estimates(name, test.calls)[test.measure].mean for name in (test.method, test.against)]
            lines.append(
                f"- {test.method} against {test.against}, {test.calls} calls: {TITLES[test.measure]} "
                f"{pair[0]:.3g} against {pair[1]:.3g}, difference {difference.mean:+.3g} "
                f"[{difference.low:+.3g}, {difference.high:+.3g}]: {said}."
            )
    return lines


def _measured(test: Comparison, methods: Mapping[str, Method]) -> bool:
    return all(name in methods and test.calls in methods[name].recipes for name in (test.method, test.against))


def _less(method: str, against: str, *calls: int) -> list[Comparison]:
    """Nearer to the converged trajectory, and nearer to the renders."""
    return [Comparison(method, against, n, measure, "less") for n in calls for measure in ("error", "frechet")]


SCHEDULES = [
    Claim(
        "Align Your Steps beats Karras' grid and linspace at ten calls of DPM-Solver++(2M) (Sabour et al. 2024).",
        [*_less("ays", "2M, karras", 10), *_less("ays", "2M, linspace", 10)],
    ),
    Claim(
        "Align Your Steps beats trailing timesteps, the default here, at ten calls (our question, not published).",
        _less("ays", "balanced", 10),
    ),
    Claim(
        "The schedule of Align Your Steps serves Euler too (Sabour et al. 2024, table 5, DDIM).",
        [test for grid in ("karras", "linspace") for test in _less("Euler, ays", f"Euler, {grid}", 10)],
    ),
    Claim(
        "The gain of Align Your Steps is gone by thirty calls (Sabour et al. 2024, table 5).",
        [Comparison("ays", "balanced", calls, "frechet", "not less") for calls in (30, 50)],
    ),
    Claim(
        "Trailing timesteps beat linspace at few steps (Lin et al. 2024).",
        [*_less("balanced", "2M, linspace", 5, 10), *_less("Euler, trailing", "Euler, linspace", 5, 10)],
    ),
    Claim(
        "The time-shift sampler improves few-step sampling (Li et al. 2024; window 80, cutoff 300 as for DDIM).",
        _less("Euler, time shift", "Euler, trailing", 5, 10),
    ),
]
GUIDANCE = [
    Claim(
        "Guidance in a limited interval gives better pictures than everywhere, more varied and cheaper "
        "(Kynkäänniemi et al. 2024).",
        [
            *(Comparison("balanced", "balanced, guided everywhere", 20, *rest) for rest in (
                ("frechet", "less"), ("recall", "more"), ("diversity", "more"), ("accuracy", "not less"),
                ("seconds", "less"),
            )),
            *(Comparison("scale 7 in (0.28, 5.42]", "scale 7 everywhere", 20, *rest) for rest in (
                ("frechet", "less"), ("recall", "more"), ("diversity", "more"), ("accuracy", "not less"),
            )),
        ],
    ),
    Claim(
        "Guidance buys consistency with diversity (Ho & Salimans 2022).",
        [
            Comparison("balanced", "balanced, never guided", 20, "accuracy", "more"),
            Comparison("balanced", "balanced, never guided", 20, "diversity", "less"),
            Comparison("balanced", "balanced, never guided", 20, "frechet", "less"),
        ],
    ),
    Claim(
        "CADS restores the diversity that strong guidance costs, at the same consistency (Sadat et al. 2024).",
        [
            Comparison("diverse", "diverse without cads", calls, *rest)
            for calls in (10, 20)
            for rest in (("diversity", "more"), ("recall", "more"), ("frechet", "less"), ("accuracy", "not less"))
        ],
    ),
]  # fmt: skip
SAMPLERS = [
    Claim(
        "DPM-Solver++(2M) needs fewer calls than Euler (Lu et al. 2022b).",
        _less("balanced", "Euler, trailing", 5, 10, 20),
    ),
    Claim("UniPC beats it below ten calls (Zhao et al. 2023).", _less("UniPC, trailing", "balanced", 5, 8, 10)),
    Claim(
        "Given many steps, stochastic ones correct earlier errors (Karras et al. 2022, sec. 4).",
        [Comparison(STOCHASTIC, "balanced", calls, "frechet", "less") for calls in (20, 50)],
    ),
]


def _scaling(methods: Mapping[str, Method]) -> list[Claim]:
    """Every preset that scales eps against itself without; and the largest published constant."""
    without = " without epsilon_scaling"
    presets = [name.removesuffix(without) for name in methods if name.endswith(without)]
    tests = [test for name in presets for test in _less(name, name + without, 10, 20)]
    return [
        Claim(
            "Dividing eps by a constant slightly above 1 improves few-step sampling (Ning et al. 2024).",
            tests + _less("Euler, eps / 1.017", "Euler, trailing", 10, 20),
        )
    ]


def _fitted(methods: Mapping[str, Method]) -> list[Claim]:
    """Presets fitted to this model, at the calls they were fitted for, against what else one would take."""
    presets = [method for method in methods.values() if method.preset]
    rivals = {"ays-": ("ays", "balanced", "2M, karras"), "eps-scaled-": ("eps-scaled",)}
    return [
        Claim(
            "Constants fitted to the model beat published ones.",
            [
                test
                for prefix, others in rivals.items()
                for fitted in presets
                if fitted.name.startswith(prefix)
                for other in others
                for test in _less(fitted.name, other, fitted.chosen)
            ],
        )
    ]


def _distilled(methods: Mapping[str, Method]) -> list[Claim]:
    """Presets of a student against its teacher's solver."""
    students = [method for name, method in methods.items() if name.startswith("flash-")]
    return [
        Claim(
            "A distilled student beats a solver in as many calls (Kohler et al. 2024, table 4).",
            [
                Comparison(student.name, "balanced", student.chosen, *rest)
                for student in students
                for rest in (("frechet", "less"), ("accuracy", "not less"))
            ],
        )
    ]
