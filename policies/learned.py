"""`learned`: the strong tier for the prompts that gain most by it, the cheap one for the rest.

One dial says how many: `share` of the requests, or the `quality` to keep. See `policies.difficulty`
for what a prompt is judged by, and docs/routing.md for how well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from policies.base import Candidate, Choice, Question, Sense
from policies.calibration import Calibration
from policies.difficulty import Difficulty, own, shipped

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
DEFAULT_SHARE = 0.3


class LearnedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a learned choice."""

    share: _Share | None = None
    """Of the requests, to be answered by the strong tier; 0.3 unless `quality` is given."""
    quality: _Share | None = None
    """What answers shall be worth on average, 1 being the strong tier's."""
    weak: list[str] = []
    """Targets of the cheap tier, in order; those not in `strong`, by price, where it is empty."""
    strong: list[str] = []
    """Targets of the strong tier, in order; the dearest one where it is empty."""
    weights: str | None = None
    """A file that `tollway learn` wrote, in place of the weights and the table that are shipped."""
    calibration: Calibration | None = None
    """Of the operator's own requests; by default that of the training data."""

    def __post_init__(self) -> None:
        """Raise ValueError for dials that contradict each other, or have no table to go by."""
        if self.share is not None and self.quality is not None:
            raise ValueError("'share' and 'quality' are the same dial: give one of them")
        table = self.calibration or (own(self.weights).calibration if self.weights else None)
        if self.quality is not None and table is not None and not table.quality:
            raise ValueError("'quality' needs a calibration that has the quality of answers")
        both = sorted({*self.weak} & {*self.strong})
        if both:
            raise ValueError(f"{both[0]!r} is in 'weak' and in 'strong'")


class Learned:
    """Two tiers; the targets of the one that is not chosen stand behind, as do those of neither.

    A conversation is as hard as the harder of its first message and its last, so that a short
    "go on" stays where the work is.
    """

    name = "learned"
    reads: frozenset[Sense] = frozenset({"prompt"})
    Options = LearnedOptions

    def __init__(
        self, options: LearnedOptions | None = None, difficulty: Difficulty | None = None
    ) -> None:
        self._options = options or LearnedOptions()
        path = self._options.weights
        self.difficulty = difficulty or (shipped() if path is None else own(path))
        self.calibration = self._options.calibration or self.difficulty.calibration
        self.share = self._strong_share()
        self._threshold = self.calibration.threshold(self.share)

    @property
    def targets(self) -> tuple[str, ...]:
        """Those that its options name."""
        return (*self._options.weak, *self._options.strong)

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates, those of the tier that the prompt calls for first."""
        difficulty = self.difficulty
        found = max(difficulty.readings(question.prompt), key=difficulty.weigh)
        score = difficulty.weigh(found)
        weak, strong, neither = self.tiers(question, candidates)
        is_hard = score >= self._threshold
        # Behind the strong tier stands the next best; where that is by price, the next dearest.
        second_best = weak if self._options.weak else weak[::-1]
        ordered = [*strong, *second_best] if is_hard else [*weak, *strong]
        first, *others = [*ordered, *neither]
        harder = 100 * self.calibration.percentile(score)
        moved = ", ".join(difficulty.moves(found)) or "by its length"
        tier = "strong" if is_hard else "cheap"
        why = f"harder than {harder:.0f} % of prompts ({moved}): the {tier} tier"
        return (
            Choice(target=first.name, reason=why if ordered else "no known price"),
            *(Choice(target=candidate.name, reason="a fallback") for candidate in others),
        )

    def _strong_share(self) -> float:
        if self._options.quality is not None:
            return self.calibration.share_for(self._options.quality)
        return DEFAULT_SHARE if self._options.share is None else self._options.share

    def tiers(
        self, question: Question, candidates: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
        """The cheap tier and the strong one, each as it is to be tried, and who is in neither.

        By price where the options do not say: the dearest is strong, and the cheaper the better
        otherwise. A target without a known price is in neither, unless it is named.
        """
        options = self._options
        named = {candidate.name: candidate for candidate in candidates}
        weak = [named[name] for name in options.weak if name in named]
        strong = [named[name] for name in options.strong if name in named]
        unnamed = [c for c in candidates if c.name not in {*options.weak, *options.strong}]
        costs = [(candidate.cost_nanousd(question), candidate) for candidate in unnamed]
        by_price = sorted(
            ((cost, candidate) for cost, candidate in costs if cost is not None),
            key=lambda pair: pair[0],
        )
        priced = [candidate for _, candidate in by_price]
        if not options.strong:
            strong = priced[-1:]
            priced = priced[:-1]
        if not options.weak:
            weak = priced
        taken = {candidate.name for candidate in (*weak, *strong)}
        return weak, strong, [c for c in candidates if c.name not in taken]
