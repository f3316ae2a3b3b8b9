"""The methods of experiments/methods.yaml, and references to them."""

import pytest

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import load
from bigain.experiments.methods import method, methods, read


def test_a_reference_is_a_method_at_a_strength():
    found = method("lgtm_official@0.7")
    assert found.title == "L-GTM, official cells 0.7" and found.series == "L-GTM, official cells"
    assert found.overrides == [
        "compressor=lgtm",
        "compressor.ratio=0.7",
        "compressor.cells=official",
    ]
    assert found.strength == 0.7 and method("iekvd@2").strength == 2


def test_a_method_without_strengths_is_its_name_alone():
    found = method("none")
    assert (found.title, found.series, found.strength) == ("Uncompressed", "Uncompressed", None)


def test_a_strength_may_have_values_of_its_own():
    both = method("lgtm_iekvd@0.3+4")
    assert both.title == "L-GTM 0.3 + IE-KVD 4" and both.strength is None
    assert "compressor._args_.1.factor=4" in both.overrides
    rising = method("iekvd_schedule@rising")
    assert "compressor.alpha={noise: 0.8, clean: 1.2}" in rising.overrides


def test_a_title_of_a_table_takes_the_method_s_values():
    assert method("tome@0.3").fill("{series} on MLP, {strength}") == "ToMe on MLP, 0.3"
    with pytest.raises(BiGainError, match=r"tome@0\.3: '\{x\}' names a value"):
        method("tome@0.3").fill("{x}")


def test_nothing_stands_there_twice():
    overrides = [tuple(found.overrides) for found in methods().values()]
    assert len(set(overrides)) == len(overrides)
    titles = [found.title for found in methods().values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("tome@0.4", r"did you mean tome@0\.3, tome@0\.5, tome@0\.7 or tome@0\.75\?"),
        ("tome", r"did you mean tome@0\.3, tome@0\.5, tome@0\.7 or tome@0\.75\?"),
        ("none@2", r"did you mean none\?"),
        ("lgtm_offical@0.5", r"did you mean lgtm_official@0\.5"),
        ("fast", "it holds none, tome, tome_first"),
    ],
)
def test_an_unknown_reference_names_those_near(reference, hint):
    with pytest.raises(BiGainError, match=f"methods.yaml holds no method {reference}; {hint}"):
        method(reference)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {title: A}", "a must have the keys overrides, title and may have series, strengths"),
        ("a: {title: A, overrides: [], strength: [1]}", "a must have the keys"),
        ("a: {title: 'A {x}', overrides: []}", r"a: 'A \{x\}' names a value .*; it has none"),
        (
            "a: {title: A, overrides: ['x={y: 1}'], strengths: [1]}",
            r"a@1: .* it has \{strength\}, and braces",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
    path = tmp_path / "methods.yaml"
    path.write_text(text)
    with pytest.raises(BiGainError, match=message):
        read(path)


def test_the_strengths_of_a_method_look_alike_in_figures():
    """But for those that say which tokens they take, which are methods of their own."""
    assert method("lgtm_l1_norm@0.3").series == method("lgtm_l1_norm@0.7").series == "L1 norm"
    highest, lowest, coarse = (
        method(f"kv_select@{at}").series for at in ("highest+2", "lowest+2", "highest+4")
    )
    assert highest == coarse == "Highest Laplacian score per cell" != lowest
    for name in ("table8", "table16"):
        for row in load(name, "mini").groups[0].rows:
            assert row.series == method(row.name).series  # also under a title of its own
