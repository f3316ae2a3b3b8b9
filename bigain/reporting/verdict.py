"""What a table shows, in words: which methods lose least and most, and what may be chance."""

from collections.abc import Sequence
from dataclasses import dataclass

from bigain.reporting.tables import Section
from bigain.tasks.columns import Row
from bigain.utils.tables import formatted

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip
FEW = 8  # names that a sentence lists
ALONE = (
    "Each 95% interval compares one method with the baseline, on its own; no two methods are "
    "compared with each other here."
)


@dataclass(frozen=True)
class Effect:
    """A method's difference to the baseline, and its 95% interval."""

    method: str
    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Measure:
    """A value that a table compares, and how its changes are put into words.

    Attributes:
        keys: the keys of the difference and its interval in a table's rows.
        count: the key of the number of images.
        digits: how many digits are printed after the point.
        unit: what follows a difference; may be empty.
        better: 1 if more is better, -1 if less is.
        verbs: the sentence for a change for the worse, for none and for one for the better; each
            for one method and for several, with places for {who} and {how} much.
        nouns: the noun for a change for the worse and for the better, each for one and for several.
    """

    keys: tuple[str, str, str]
    count: str
    digits: int
    unit: str
    better: int
    verbs: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    nouns: tuple[tuple[str, str], tuple[str, str]]

    def effects(self, rows: Sequence[Row]) -> list[Effect]:
        """The effects of the rows that have a difference, best first."""
        there = [row for row in rows if row.get(self.keys[0]) is not None]
        found = [Effect(row["method"], *(row[key] for key in self.keys)) for row in there]
        return sorted(found, key=lambda effect: -self.better * effect.value)

    def change(self, effect: Effect) -> int:
        """-1 for the worse, 1 for the better, 0 if the printed difference is 0."""
        value = self.better * round(effect.value, self.digits)
        return (value > 0) - (value < 0)

    def shown(self, effect: Effect) -> str:
        """The difference with its interval, as a table prints it."""
        numbers = (effect.value, effect.low, effect.high)
        value, low, high = (formatted(n, f"+.{self.digits}f") for n in numbers)
        return f"{value}{self.unit} [{low}, {high}]"

    def clause(self, effects: Sequence[Effect], how: str) -> str:
        """The clause which says how much these methods, all equal, change the value."""
        verb = self.verbs[1 + self.change(effects[0])][len(effects) > 1]
        said = verb.format(who=_list([e.method for e in effects]), how=how)
        return f"{said}: {_list([self.shown(e) for e in effects])}"

    def noun(self, effects: Sequence[Effect]) -> str:
        """Such as "the losses of A and B", or "ten losses" of many."""
        word = self.nouns[self.better * effects[0].value > 0][len(effects) > 1]
        if len(effects) > FEW:
            return f"{_number(len(effects))} {word}"
        return f"the {word} of {_list([e.method for e in effects])}"


ACCURACY = Measure(
    keys=("difference", "diff_low", "diff_high"),
    count="n",
    digits=1,
    unit=" points",
    better=1,
    verbs=(
        ("{who} loses{how} accuracy", "{who} lose{how} accuracy"),
        ("{who} neither gains nor loses accuracy", "{who} neither gain nor lose accuracy"),
        ("{who} gains{how} accuracy", "{who} gain{how} accuracy"),
    ),
    nouns=(("loss", "losses"), ("gain", "gains")),
)
FID = Measure(
    keys=("fid_difference", "fid_diff_low", "fid_diff_high"),
    count="generated",
    digits=2,
    unit="",
    better=-1,
    verbs=(
        ("FID rises{how} under {who}",) * 2,
        ("FID stays the same under {who}",) * 2,
        ("FID falls{how} under {who}",) * 2,
    ),
    nouns=(("rise", "rises"), ("fall", "falls")),
)


def verdict(sections: Sequence[Section]) -> str:
    """What the printed table shows, a paragraph for each section; empty if nothing is compared."""
    paragraphs = []
    for section in sections:
        said = [text for m in (ACCURACY, FID) if (text := _measured(m, section.rows))]
        if said:
            title = f"{section.title}: " if section.title else ""
            paragraphs.append(title + " ".join(said))
    return "\n\n".join([*paragraphs, ALONE]) if paragraphs else ""


def _measured(measure: Measure, rows: Sequence[Row]) -> str:
    """The sentences of one measure; empty if no row has a difference."""
    effects = measure.effects(rows)
    if not effects:
        return ""
    images = next(row[measure.count] for row in rows if row.get(measure.keys[0]) is not None)
    return f"{_extremes(measure, effects)} {_clear(measure, effects, images)}"


def _extremes(measure: Measure, effects: Sequence[Effect]) -> str:
    """Who does best and who does worst."""
    best, worst = (_equal(measure, effects, of) for of in (effects[0], effects[-1]))
    if len(best) == len(effects):
        return f"{_capital(measure.clause(best, ''))}."
    count = _number(len(effects))
    first = f"Of the {count} methods, {measure.clause(best, _how(measure, effects, 1))}."
    return f"{first} {_capital(measure.clause(worst, _how(measure, effects, -1)))}."


def _equal(measure: Measure, effects: Sequence[Effect], of: Effect) -> list[Effect]:
    """The effects whose printed difference is that of one of them."""
    value = round(of.value, measure.digits)
    return [effect for effect in effects if round(effect.value, measure.digits) == value]


def _how(measure: Measure, effects: Sequence[Effect], end: int) -> str:
    """The degree of the best (1) or worst (-1) of the effects."""
    changes = [measure.change(effect) for effect in effects]
    own = changes[0 if end == 1 else -1]
    if changes.count(own) == 1:  # the only one that loses, or gains
        return ""
    most = own == end
    if len(effects) == 2:
        return " more" if most else " less"
    return " the most" if most else " the least"


def _clear(measure: Measure, effects: Sequence[Effect], images: int) -> str:
    """Which differences are more than chance explains."""
    clear = [effect for effect in effects if effect.clear]
    rest = [effect for effect in effects if not effect.clear]
    ways = [[e for e in clear if measure.better * e.value * sign > 0] for sign in (-1, 1)]
    there = [way for way in ways if way]
    said = f"with {images:,} images"
    if not clear:
        if len(rest) == 1:
            return (
                f"The interval includes 0: {said}, it is statistically indistinguishable from the "
                "baseline."
            )
        none = "neither method" if len(rest) == 2 else "no method"
        return (
            f"{_all(rest)} include 0: {said}, {none} is statistically distinguishable from the "
            "baseline."
        )
    if not rest and len(there) == 1:
        return "The interval excludes 0." if len(clear) == 1 else f"{_all(clear)} exclude 0."
    text = f"The interval excludes 0 for {' and for '.join(measure.noun(way) for way in there)}"
    if not rest:
        return f"{text}."
    names = _list([effect.method for effect in rest])
    if len(rest) == 1:
        others = f"the other method, {names}, is"
    elif len(rest) <= FEW:
        others = f"the other {_number(len(rest))}, {names}, are"
    else:
        others = f"the other {_number(len(rest))} are"
    return f"{text}; {said}, {others} statistically indistinguishable from the baseline."


def _all(effects: Sequence[Effect]) -> str:
    return "Both intervals" if len(effects) == 2 else f"All {_number(len(effects))} intervals"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _list(words: Sequence[str]) -> str:
    """Names that hold commas themselves are set apart by semicolons."""
    *first, last = words
    if not first:
        return last
    comma = "; " if any(", " in word.split(" [")[0] for word in words) else ", "
    return f"{comma.join(first)} and {last}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
