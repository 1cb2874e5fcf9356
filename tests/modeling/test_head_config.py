"""The head's settings: round trips, presets, and every refusal with the words that help."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sot_nlp.modeling.head_config import INTEGER_RANGES, PRESETS, SoTHeadConfig, choices, resolve_head
from sot_nlp.modeling.parts import HEADS, REGISTRY, Part, is_own

TEXT = PRESETS["text"]


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip_is_equal(name):
    config = PRESETS[name]
    assert SoTHeadConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert resolve_head(config.to_dict()) == resolve_head(name) == config


def test_the_published_recipes():
    text, vision = PRESETS["text"], PRESETS["vision"]
    assert (text.num_heads, text.width_x, text.width_y, text.dropout) == (1, 96, 48, 0.5)
    assert (text.map_norm, text.map_activation, text.centering, text.start_side) == (
        "batch_norm",
        "relu",
        "channel",
        "x",
    )
    assert (vision.num_heads, vision.width_x, vision.width_y, vision.dropout) == (6, 24, 24, 0.5)
    assert (vision.map_norm, vision.map_activation, vision.centering, vision.start_side) == (
        "none",
        "none",
        "scalar",
        "y",
    )
    for config in (text, vision):
        assert (config.pooling, config.normalization, config.alpha) == ("cross_covariance", "svpn", 0.5)
        assert (config.num_singular_values, config.num_iterations) == (1, 1)
        assert (config.fusion, config.class_token, config.num_layers) == ("sum", "linear", 1)
        assert config.include_separators


def test_stock_and_words():
    stock, words = PRESETS["stock"], PRESETS["words"]
    assert (stock.pooling, stock.fusion, stock.class_token) == ("none", "class_token", "stock")
    assert not stock.uses_words
    assert stock.uses_class_token
    assert words == TEXT.replace(fusion="words")
    assert words.uses_words
    assert not words.uses_class_token


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TEXT.alpha = 0.7


def test_overrides():
    assert resolve_head("sot") == TEXT.replace(num_layers=4)
    assert resolve_head(None) == TEXT.replace(num_layers=4, pooling="moments", mean_width=256, mean_alpha=0.5)
    assert resolve_head("text", alpha=0.7).alpha == 0.7
    assert resolve_head(TEXT, width_x=56, width_y=32).widths == (56, 32)
    assert resolve_head("text", pooling="covariance").widths == (96, 96)
    # What another pooling leaves unused may stay as it is.
    assert resolve_head("text", pooling="mean", normalization="none").pooling == "mean"


def test_settings_of_an_older_version_take_the_later_fields_defaults():
    missing = dataclasses.MISSING
    fields = dataclasses.fields(SoTHeadConfig)
    later = {f.name for f in fields if not f.default is f.default_factory is missing}
    old = {name: value for name, value in TEXT.to_dict().items() if name not in later}
    assert SoTHeadConfig.from_dict(old) == TEXT.replace(token_norm="none")
    wide = resolve_head(None, mean_width=1024, mean_alpha=1).to_dict()
    assert "mean_alpha" not in wide
    assert SoTHeadConfig.from_dict(wide).mean_alpha == 1


def test_missing_fields_are_named_all_at_once():
    settings = TEXT.to_dict()
    del settings["width_x"], settings["fusion"]
    with pytest.raises(ValueError, match="no value for width_x, fusion"):
        SoTHeadConfig.from_dict(settings)


def test_unknown_fields_are_named_with_near_ones():
    with pytest.raises(ValueError, match=r"no field 'num_head' \(did you mean num_heads"):
        SoTHeadConfig.from_dict({**TEXT.to_dict(), "num_head": 2})
    with pytest.raises(ValueError, match=r"no field 'aplha' \(did you mean alpha"):
        resolve_head("text", aplha=0.7)


def test_unknown_presets_are_named_with_near_ones():
    with pytest.raises(ValueError, match=r"no preset 'visoin' \(did you mean vision\?\)"):
        resolve_head("visoin")
    with pytest.raises(ValueError, match=r"no preset '\\x1b\[2J' \(known: sot, text, vision, stock, words"):
        resolve_head("\x1b[2J")
    with pytest.raises(ValueError, match="3 is neither a preset"):
        resolve_head(3)


@pytest.mark.parametrize("preset", ["sot", "maxpool_both", None])
def test_a_whole_head_by_its_name_gets_the_last_layer_alone(preset, monkeypatch):
    monkeypatch.setitem(HEADS, "mean_of_all", Part(name="mean_of_all", source=object, doc=""))
    config = resolve_head(preset, module="mean_of_all")
    assert (config.num_layers, config.token_of_layers) == (1, False)
    assert resolve_head(preset, module="mean_of_all", num_layers=3).num_layers == 3


@pytest.mark.parametrize(
    ("name", "fields"),
    [("max", "head.pooling"), ("power", "head.normalization"), ("mean_of_all", "head.module")],
)
def test_a_parts_name_is_no_preset_and_its_field_is_named(name, fields, monkeypatch):
    monkeypatch.setitem(HEADS, "mean_of_all", Part(name="mean_of_all", source=object, doc=""))
    with pytest.raises(ValueError, match=rf"no preset '{name}' \(it is a value of {fields}\)$"):
        resolve_head(name)


@pytest.mark.parametrize("name", choices())
def test_an_unknown_choice_shows_the_valid_ones(name):
    with pytest.raises(ValueError, match=f"{name}='nonsense' is not one of {', '.join(choices()[name])}"):
        TEXT.replace(**{name: "nonsense"})


@pytest.mark.parametrize("value", ["low", -1, 5000, 1.0, True, "3", None])
@pytest.mark.parametrize("name", INTEGER_RANGES)
def test_integers_out_of_range_or_of_another_type_are_refused(name, value):
    low, high = INTEGER_RANGES[name]
    value = low - 1 if value == "low" else value
    with pytest.raises(ValueError, match=f"{name}={value!r} is not an integer from {low} to {high}"):
        TEXT.replace(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alpha", [0, 1, -0.5, 1.5, float("nan"), float("inf"), "0.5", True, None]),
        ("mean_alpha", [0, -0.5, 1.5, float("nan"), "0.5", True, None]),
        ("dropout", [-0.1, 1, 1.5, float("nan"), "0", True, None]),
        ("include_separators", [0, "yes", None]),
    ],
)
def test_other_values_out_of_range_are_refused(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name}={value!r} is not"):
            TEXT.replace(**{name: value})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pooling": "none"}, "fusion='sum' needs word tokens"),
        ({"fusion": "class_token"}, "fusion='class_token' leaves the words out"),
        (
            {"pooling": "mean"},
            "normalization='svpn' needs a matrix, but pooling='mean' gives a vector: use one",
        ),
        ({"pooling": "max", "normalization": "svpn_exact"}, "normalization='svpn_exact' needs a matrix"),
        ({"pooling": "attention", "normalization": "isqrt_cov"}, "normalization='isqrt_cov' needs a matrix"),
        ({"normalization": "isqrt_cov"}, "needs pooling='covariance'"),
        ({"num_singular_values": 49}, "num_singular_values=49 is more than a 96x48 matrix has: use 1 to 48"),
        ({"pooling": "none", "fusion": "class_token", "num_layers": 2}, "num_layers=2 mixes layers of words"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        TEXT.replace(**overrides)


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError, match="head settings") as caught:
        TEXT.replace(pooling="mean", fusion="class_token", num_heads=0, alpha=2, map_norm="group")
    for name in ("normalization=", "fusion=", "num_heads=0", "alpha=2", "map_norm='group'"):
        assert name in str(caught.value)


def test_long_values_are_shortened():
    with pytest.raises(ValueError, match="…") as caught:
        TEXT.replace(fusion="x" * 10_000)
    assert len(str(caught.value)) < 400


def test_the_settings_need_no_torch():
    code = (
        "import sys; from sot_nlp.modeling.head_config import resolve_head;"
        "assert resolve_head('text').width_x == 96; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def table(kind):
    """Return the table of a kind's parts in Markdown, as the README of their folder has it."""
    columns = {f"`{kind}`": lambda part: f"`{part.name}`"}
    columns["what it does"] = lambda part: part.doc
    if kind == "pooling":
        columns["gives"] = lambda part: part.gives or "nothing"
        columns["exact shares of words"] = lambda part: f"no: {part.inexact}" if part.inexact else "yes"
    elif kind == "normalization":
        columns["takes"] = lambda part: "covariance" if part.symmetric else " or ".join(part.takes)
        columns["`S -> c S`"] = lambda part: part.factor
        columns["exact shares"] = lambda part: part.exact
    elif kind == "class_token":
        columns["reads"] = _reads
    else:
        columns["branches"] = lambda part: " and ".join(
            name for name, there in (("words", part.words), ("class token", part.class_token)) if there
        )
        columns["a loss on"] = lambda part: " and ".join(f"`{name}`" for name in part.scores)
    if kind != "fusion":
        columns["settings"] = lambda part: ", ".join(f"`{name}`" for name in part.settings)
    rows = [list(columns), ["---"] * len(columns)]
    rows += [
        [cell(part) for cell in columns.values()] for part in REGISTRY[kind].values() if not is_own(part)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _reads(part):
    token = "the token of the last layers" if part.layers else "the last layer's token"
    return token + (" and the words" if part.words else "")


@pytest.mark.parametrize("kind", ["pooling", "normalization", "fusion", "class_token"])
def test_the_readme_has_the_tables_of_the_parts(kind):
    readme = Path(sys.modules[SoTHeadConfig.__module__].__file__).with_name("README.md")
    assert f"\n{table(kind)}\n" in readme.read_text(encoding="utf-8"), f"it should be:\n{table(kind)}"
