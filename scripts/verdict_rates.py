"""Error rates and power of the verdict, by simulation: `python -m scripts.verdict_rates`.

Simulates studies with a known truth and judges each as `sbrl report` does, look by look. Prints a Markdown table with the 95 %
interval (Wilson) of each rate; --document writes it into docs/report.md. The same seed gives the same table.

Effects are shares of the baseline's IQM: +70 % is the paper's (Obando-Ceron et al. 2023: QR-DQN, batch 8 against 32),
20 % is the cost of one mis-set step of a grid (Fu et al. 2025). A score's standard deviation over seeds is 25 % of its mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from sbrl.errors import UsageError
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.program import run_program
from studies.statistics.aggregates import Floats
from studies.verdict import Answer, Rule, judge, overall

DEVIATION = 0.25  # standard deviation over seeds, as a share of the mean
BETWEEN_HORIZONS = 0.7  # correlation of a run's scores at two horizons
BEGIN, END = "<!-- verdict rates: python -m scripts.verdict_rates --document -->", "<!-- end of verdict rates -->"
DOCUMENT = Path("docs/report.md")


class Setup(NamedTuple):
    """A simulated study."""

    scores: str  # distribution of a run's score
    seeds: int
    looks: tuple[int, ...]
    arms: int = 1
    environments: int = 1


class Effect(NamedTuple):
    """The true effect of the first arm. All other arms equal the baseline."""

    gain: float  # of the mean
    horizons: str = "both"  # or "last": only at the last horizon
    spread: float = 1.0  # factor for the standard deviation


@dataclass(frozen=True)
class Rates:
    """Shares of studies by verdict."""

    adopt: float  # any arm
    keep: float  # all arms
    seeds: float  # mean number of seeds at the decision, or at the end


def simulate(setup: Setup, effect: Effect, studies: int, permutations: int = 999, seed: int = 0) -> Rates:
    """Judges `studies` studies. Each stops at the look that adopts an arm or keeps none, as a user may."""
    generator = np.random.default_rng(seed)
    rule = Rule(planned_seeds=setup.seeds, looks=setup.looks)
    verdicts, used = [], []
    for study in range(studies):
        baseline = _draw(generator, setup, Effect(0.0))
        arms = {str(arm): _draw(generator, setup, effect if arm == 0 else Effect(0.0)) for arm in range(setup.arms)}
        answer: Answer = "not shown"
        for look in setup.looks:
            so_far = {name: scores[:, :look] for name, scores in arms.items()}
            answer = overall(judge(baseline[:, :look], so_far, rule, permutations + 1, (), resamples=200, seed=study))
            if answer != "not shown":
                break
        verdicts.append(answer)
        used.append(look)
    return Rates(verdicts.count("adopt") / studies, verdicts.count("keep") / studies, float(np.mean(used)))


def _draw(generator: np.random.Generator, setup: Setup, effect: Effect) -> Floats:
    """Scores at two horizons: float64[2, S, E], with mean 1 in every environment if there is no effect."""
    shape = (setup.seeds, setup.environments)
    shared, own = generator.normal(size=shape), generator.normal(size=(2, *shape))
    normal = np.sqrt(BETWEEN_HORIZONS) * shared + np.sqrt(1 - BETWEEN_HORIZONS) * own
    width = DEVIATION * effect.spread
    if setup.scores == "skewed":  # lognormal with mean 1
        sigma = np.sqrt(np.log(1 + width**2))
        scores = np.exp(sigma * normal - sigma**2 / 2)
    elif setup.scores == "some fail":  # one run in five learns nothing
        scores = np.where(stats.norm.cdf(shared) < 0.2, 0.1, 1.225) * (1 + width * normal)
    else:
        scores = 1 + width * normal
    gains = np.array([0.0 if effect.horizons == "last" else effect.gain, effect.gain])
    return np.asarray(scores * (1 + gains[:, None, None]))


CASES: tuple[tuple[str, Setup, Effect], ...] = tuple(
    (what, setup, effect)
    for what, effect in (
        ("no effect", Effect(0.0)),
        ("no effect, twice the spread", Effect(0.0, spread=2.0)),
        ("+70 % at the last horizon only", Effect(0.7, "last")),
        ("+20 %", Effect(0.2)),
        ("+70 %", Effect(0.7)),
        ("-20 %", Effect(-0.2)),
    )
    for setup in (
        Setup("normal", 5, (5,)),
        Setup("normal", 10, (5, 10)),
        Setup("skewed", 10, (5, 10), arms=4),
        Setup("some fail", 15, (5, 10, 15)),
        Setup("normal", 5, (5,), arms=2, environments=5),
    )
)


def table(studies: int, permutations: int, cases: Sequence[tuple[str, Setup, Effect]], seed: int) -> str:
    """The rates of these cases, as Markdown."""
    lines = [
        "| truth | scores | seeds | looks | arms | environments | adopt | keep | seeds used |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for what, setup, effect in cases:
        rates = simulate(setup, effect, studies, permutations, seed)
        looks = ", ".join(map(str, setup.looks))
        lines.append(
            f"| {what} | {setup.scores} | {setup.seeds} | {looks} | {setup.arms} | {setup.environments} "
            f"| {_share(rates.adopt, studies)} | {_share(rates.keep, studies)} | {rates.seeds:.1f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _share(rate: float, studies: int) -> str:
    interval = stats.binomtest(round(rate * studies), studies).proportion_ci(method="wilson")
    return f"{100 * rate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m scripts.verdict_rates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=whole_number(1, 10**6), default=1000, help="of each case (default: 1000)")
    parser.add_argument("--permutations", type=whole_number(99, 10**6), default=999, help="of each test (default: 999)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the studies (default: 0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose truth and scores have this: 'only, some fail'")
    parser.add_argument("--document", action="store_true", help=f"write the table into {DOCUMENT}")
    arguments = parser.parse_args(argv)
    cases = [case for case in CASES if arguments.only in f"{case[0]}, {case[1].scores}"]
    if not cases or (arguments.document and arguments.only):
        raise UsageError(f"--only {arguments.only}: no case has this, or --document was given, which wants all of them")
    text = table(arguments.studies, arguments.permutations, cases, arguments.seed)
    if arguments.document:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        counts = f"{arguments.studies:,} studies of each kind, {arguments.permutations:,} permutations:"
        DOCUMENT.write_text(f"{before}{BEGIN}\n{counts}\n\n{text}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_program(main)
