"""What a table shows, in words, with the grammar of one, none and all."""

from collections.abc import Sequence

import pytest

from bigain.reporting.tables import Section
from bigain.reporting.verdict import ALONE, verdict


def line(method: str, *difference: float, n: int = 150) -> dict:
    """A row of classification; without a difference it is the baseline, or not finished."""
    keys = ("difference", "diff_low", "diff_high")
    return {"method": method, "n": n, **dict(zip(keys, difference or [None] * 3, strict=True))}


def said(*rows: dict, title: str = "") -> str:
    return verdict([Section(title, rows, [])]).removesuffix(ALONE).strip()


NONE = line("Uncompressed")
LOSS = (-12.24, -16.5, -7.8)
MORE = (-52.0, -56.6, -46.9)
CHANCE = (-0.2, -3.5, 3.1)
GAIN = (2.0, 0.4, 3.6)


def test_the_least_and_the_most_and_what_is_clear():
    found = said(NONE, line("ToDo 2", *MORE), line("SiTo", *CHANCE), line("L-GTM", *LOSS))
    assert found == (
        "Of the three methods, SiTo loses the least accuracy: −0.2 points [−3.5, +3.1]. "
        "ToDo 2 loses the most accuracy: −52.0 points [−56.6, −46.9]. "
        "The interval excludes 0 for the losses of L-GTM and ToDo 2; with 150 images, the other "
        "method, SiTo, is statistically indistinguishable from the baseline."
    )


@pytest.mark.parametrize(
    ("differences", "end"),
    [
        ([LOSS], "The interval excludes 0."),
        ([LOSS, MORE], "Both intervals exclude 0."),
        ([LOSS, MORE, MORE], "All three intervals exclude 0."),
        (
            [CHANCE],
            "The interval includes 0: with 150 images, it is statistically indistinguishable from "
            "the baseline.",
        ),
        (
            [CHANCE, CHANCE],
            "Both intervals include 0: with 150 images, neither method is statistically "
            "distinguishable from the baseline.",
        ),
        (
            [CHANCE] * 3,
            "All three intervals include 0: with 150 images, no method is statistically "
            "distinguishable from the baseline.",
        ),
        ([LOSS, GAIN], "The interval excludes 0 for the loss of m0 and for the gain of m1."),
        (
            [LOSS, CHANCE, CHANCE],
            "The interval excludes 0 for the loss of m0; with 150 images, the other two, m1 and "
            "m2, are statistically indistinguishable from the baseline.",
        ),
        (
            [LOSS] * 13 + [CHANCE] * 9,
            "The interval excludes 0 for 13 losses; with 150 images, the other nine are "
            "statistically indistinguishable from the baseline.",
        ),
    ],
)
def test_what_is_clear(differences: Sequence, end: str):
    found = said(NONE, *(line(f"m{i}", *d) for i, d in enumerate(differences)))
    assert found.endswith(end)


@pytest.mark.parametrize(
    ("differences", "start"),
    [
        ([LOSS], "M0 loses accuracy: −12.2 points [−16.5, −7.8]. "),
        ([(0.0, -3.0, 3.0)], "M0 neither gains nor loses accuracy: +0.0 points [−3.0, +3.0]. "),
        ([LOSS, MORE], "Of the two methods, m0 loses less accuracy: −12.2 points"),
        ([LOSS, GAIN], "Of the two methods, m1 gains accuracy: +2.0 points [+0.4, +3.6]. M0 loses"),
        ([GAIN, (3.0, 1, 5), (4.0, 2, 6)], "Of the three methods, m2 gains the most accuracy: +4"),
        ([GAIN, LOSS, LOSS], "Of the three methods, m0 gains accuracy: +2.0 points [+0.4, +3.6]"),
        ([LOSS, LOSS, MORE], "Of the three methods, m0 and m1 lose the least accuracy: −12.2"),
        ([LOSS, LOSS], "M0 and m1 lose accuracy: −12.2 points [−16.5, −7.8] and −12.2 points"),
    ],
)
def test_who_is_best(differences: Sequence, start: str):
    found = said(NONE, *(line(f"m{i}", *d) for i, d in enumerate(differences)))
    assert found.startswith(start)


def test_names_with_commas_are_set_apart():
    names = ["ToMe, first 0.5", "L-GTM", "SiTo"]
    found = said(NONE, line("ToDo", *CHANCE), *(line(name, *LOSS) for name in names))
    assert "the losses of ToMe, first 0.5; L-GTM and SiTo; with 150" in found


def test_less_fid_is_better():
    keys = ("fid_difference", "fid_diff_low", "fid_diff_high")
    values = {"A": (0.75, 0.57, 0.92), "B": (-0.2, -0.3, -0.1), "C": (8.69, 8.16, 9.21)}
    rows = [
        {"method": name, "generated": 1000, **dict(zip(keys, found, strict=True))}
        for name, found in values.items()
    ]
    assert said(*rows) == (
        "Of the three methods, FID falls under B: −0.20 [−0.30, −0.10]. FID rises the most under "
        "C: +8.69 [+8.16, +9.21]. The interval excludes 0 for the rises of A and C and for the "
        "fall of B."
    )


def test_every_section_has_its_own():
    rows = [NONE, line("A", *LOSS, n=1000)]
    text = verdict([Section("DiT, data", rows, []), Section("U-Net, data", rows, [])])
    first, second, end = text.split("\n\n")
    assert first.startswith("DiT, data: A loses") and second.startswith("U-Net, data: A loses")
    assert end == ALONE


def test_nothing_finished_is_nothing_said():
    assert verdict([]) == verdict([Section("", [NONE, line("A")], [])]) == ""
