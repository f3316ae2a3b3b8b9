"""Tables print what rows hold, and the same numbers in every format."""

import csv

import pandas as pd
import pytest

from bigain.errors import BiGainError
from bigain.metrics.accuracy import paired, top1
from bigain.reporting.tables import Section, write
from bigain.tasks.classify_columns import KEYS, RANKING_KEYS, accuracy_columns, accuracy_row
from bigain.tasks.columns import COST
from bigain.utils.tables import DASH


def frame(correct, seconds=None):
    """A run's images, given which are right."""
    n = len(correct)
    return pd.DataFrame(
        {
            "image_id": [f"{i:03d}" for i in range(n)],
            "labels": [[1]] * n,
            "prediction": [1 if c else 2 for c in correct],
            "samples": [[10, 20 + 2 * i] for i in range(n)],
            "seconds": seconds or [1.0] * n,
        }
    )


OURS = [True, True, False, False, True]
THEIRS = [True, False, True, True, True]
FREE = dict.fromkeys(COST)


def test_row_holds_the_metrics_of_its_frames():
    cost = {"gflops": 1.5, "gflops_matching": 0.25, "peak_memory_mib": 512.0}
    ours = frame(OURS, [1.0, 9.0, 2.0, 3.0, 2.5])
    row = accuracy_row("L-GTM", ours, frame(THEIRS), cost, "abc")
    accuracy, test = top1(OURS), paired(OURS, THEIRS)
    assert row == {
        "method": "L-GTM",
        "n": 5,
        "acc1": 100 * accuracy.value,
        "low": 100 * accuracy.low,
        "high": 100 * accuracy.high,
        "difference": test.difference,
        "diff_low": test.low,
        "diff_high": test.high,
        "wins": 1,
        "losses": 2,
        "p": test.p,
        "evaluations": 34.0,  # 30, 32, .., 38
        "seconds": 2.5,
        "fingerprint": "abc",
        "conditions": frozenset(),
        **cost,
        **dict.fromkeys(RANKING_KEYS),
    }
    assert tuple(row) == ("method", *KEYS, *RANKING_KEYS, "conditions")


def test_images_are_paired_by_id_and_not_by_place():
    shuffled = frame(THEIRS).sample(frac=1, random_state=3)
    assert list(shuffled["image_id"]) != list(frame(THEIRS)["image_id"])
    assert accuracy_row("x", frame(OURS), shuffled) == accuracy_row("x", frame(OURS), frame(THEIRS))


def test_a_baseline_of_other_images_is_refused():
    with pytest.raises(BiGainError, match=r"L-GTM .*5 and 4 rows, 1 images .*such as 004"):
        accuracy_row("L-GTM", frame(OURS), frame(THEIRS[:4]))
    twice = pd.concat([frame(THEIRS), frame(THEIRS[:1])])
    with pytest.raises(BiGainError, match="5 and 6 rows"):
        accuracy_row("L-GTM", frame(OURS), twice)


def test_a_baseline_with_other_labels_is_refused():
    with pytest.raises(BiGainError, match="other labels for 1 images, such as 002"):
        accuracy_row("x", frame(OURS), frame(THEIRS).assign(labels=[[1], [1], [1, 5], [1], [1]]))


def several(errors, labels, prediction):
    """Images of three classes, of which the first two were tried at more timesteps."""
    n = len(errors)
    return frame([True] * n).assign(
        labels=labels, prediction=prediction, errors=errors, samples=[[20, 20, 5]] * n
    )


def test_images_of_several_labels_are_ranked(tmp_path):
    ours = several([[0.5, 0.6, 0.1], [0.5, 0.4, 0.1]], [[0, 1], [2]], [0, 1])
    theirs = several([[0.5, 0.6, 0.1], [0.5, 0.4, 0.1]], [[0, 1], [2]], [0, 1]).iloc[::-1]
    row = accuracy_row("x", ours, theirs)
    assert row["acc1"] == 50  # the prediction need only be among the labels
    assert row["map"] == pytest.approx(100 * (1 + 1 / 3) / 2)  # finalists first
    # the published code takes the winner and then all others by error: 0, 2, 1 and 1, 2, 0
    assert row["map_official"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert row["acc1_of_all"] is None and row["map_of_all"] is None
    every = accuracy_row("x", ours, unlabelled=2)  # as wrong as any other
    assert every["acc1_of_all"] == 25
    assert every["map_of_all"] == pytest.approx(row["map_official"] / 2)
    assert (every["acc1"], every["map"]) == (row["acc1"], row["map"])
    assert (row["map_difference"], row["map_p"]) == (0, 1)
    text = write([Section("", [row], [accuracy_columns([row])])], tmp_path / "a", "t", "")
    assert "mAP, official ranking" in text and "66.7 [" in text


def test_a_cost_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="gflop"):
        accuracy_row("x", frame(OURS), cost={**FREE, "gflop": 1.0})


def test_a_row_not_run_is_its_title_alone():
    row = accuracy_row("x")
    assert {key for key, value in row.items() if value is not None} == {"method"}


def test_the_rule_of_a_narrow_column_is_still_markdown(tmp_path):
    row = accuracy_row("x")
    text = write([Section("", [row], [accuracy_columns([row])])], tmp_path / "a", "t", "")
    rule = next(line for line in text.splitlines() if line.startswith("|:"))
    assert all("--" in cell for cell in rule.strip("| ").split("|"))


@pytest.fixture
def written(tmp_path):
    rows = [
        accuracy_row("None", frame(THEIRS), None, {**FREE, "gflops": 0.5}, "f" * 16),
        accuracy_row("A|B & 50%_x", frame(OURS, [1 / 3] * 5), frame(THEIRS)),
        accuracy_row("L-GTM"),
    ]
    stem = tmp_path / "new" / "table4.v2"
    text = write(
        [Section("", rows, [accuracy_columns(rows)])], stem, "Fashion & more", "On 100% of it."
    )
    return rows, text, stem


def test_csv_holds_every_number_exactly(written):
    rows, _, stem = written
    with open(f"{stem}.csv") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == ("method", *KEYS)
    for line, row in zip(read, rows, strict=True):
        for key in KEYS:
            value = row[key]
            if value is None:
                assert line[key] == ""
            else:
                assert type(value)(line[key]) == value


def test_markdown_rounds_and_dashes(written):
    _, text, stem = written
    with open(f"{stem}.md") as file:
        assert file.read() == text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(set(map(len, lines))) == 1
    cells = [
        [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
        for line in (lines[0], *lines[2:])
    ]
    table = [dict(zip(cells[0], line, strict=True)) for line in cells[1:]]
    assert table[0]["Accuracy (%)"] == "80.0 [37.6, 96.4]"  # Wilson of 4/5
    assert table[0]["Difference (points)"] == table[0]["Seconds"].replace("1.00", DASH)
    assert table[0]["GFLOPs"] == "0.500"
    assert table[1]["Method"] == "A/B & 50%_x"
    assert table[1]["Difference (points)"].startswith("−20.0 [−")
    assert (table[1]["Wins/losses"], table[1]["p"]) == ("1/2", "1.000")
    assert (table[1]["Seconds"], table[1]["Peak MiB"]) == ("0.333", DASH)
    assert [table[2].pop("Method"), set(table[2].values())] == ["L-GTM", {DASH}]
    assert "# Fashion & more" in text
    assert "On 100% of it." in text


def test_latex_is_escaped_and_rectangular(written):
    _, _, stem = written
    with open(f"{stem}.tex") as file:
        text = file.read()
    assert r"A|B \& 50\%\_x" in text
    assert r"\caption{Fashion \& more." in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert len({line.replace(r"\&", "").count("&") for line in lines}) == 1
    for command in (r"\toprule", r"\midrule", r"\end{tabular}", r"\end{table}"):
        assert text.count(command) == 1
    assert text.isascii()


def test_a_file_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "results").write_text("a file")
    rows = [accuracy_row("x")]
    with pytest.raises(BiGainError, match=r"cannot write .*results"):
        write([Section("", rows, [accuracy_columns(rows)])], tmp_path / "results" / "a", "t", "")


def test_times_of_other_conditions_are_marked_and_explained_once():
    here, there = frozenset({"CPU, 1 thread"}), frozenset({"CPU, 2 threads"})
    cost = {"gflops": 1.0, "gflops_matching": 0.0, "peak_memory_mib": 64.0}

    def row(title, conditions):
        timed = frame([True, False], seconds=[0.5, 0.5])
        return accuracy_row(title, timed, None, cost, "f", conditions)

    rows = [row("a", here), row("b", there), row("c", here | there), row("d", here)]
    columns = accuracy_columns(rows)
    for header, value in (("Seconds", "0.500"), ("Peak MiB", "64.0")):
        (column,) = [c for c in columns.printed if c.header == header]
        assert [column.text(r) for r in rows] == [value, "†", "†", value]
        assert [column.value(r) is None for r in rows] == [False, True, True, False]
    assert columns.legend.count("†") == 1
    assert "†" not in accuracy_columns([rows[0], rows[3]]).legend
