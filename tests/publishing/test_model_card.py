"""The model card: its metadata as huggingface_hub reads it, its text as a Markdown reader would."""

from __future__ import annotations

import html
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard import metadata_load

from sot_nlp import records
from sot_nlp.modeling.head_config import DEFAULT_PRESET, PRESETS
from sot_nlp.publishing import model_card
from sot_nlp.publishing.model_card import escape
from sot_nlp.publishing.training_plot import training_plot
from tests.support.hub_server import card_problems, serve
from tests.support.saved_runs import record

NASTY = "a|b `c` *d* <script>alert(1)</script> [x](http://y) # \x1b[31m\n---\n'\"\\: \u202e"


def render(text: str) -> str:
    """What a reader sees of escaped inline text: backslash escapes and entities undone."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text))


def test_the_metadata_is_what_the_hub_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = model_card.model_card(record(), repo_id="me/zorps-sot", license="apache-2.0", plot=True)
    (tmp_path / "README.md").write_text(text)
    data = metadata_load(tmp_path / "README.md")
    assert data is not None
    assert {key: data[key] for key in ("base_model", "license", "library_name", "pipeline_tag")} == {
        "base_model": "google-bert/bert-base-cased",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
    }
    assert {"sot-nlp", "custom_code"} <= set(data["tags"])
    card = ModelCard(text)
    assert card.data.model_name == "zorps-sot"
    assert [
        (r.dataset_split, r.metric_type, r.metric_name, r.metric_value) for r in card.data.eval_results
    ] == [
        ("validation_matched", "accuracy", "Accuracy", 0.7),
        ("validation_matched", "f1", "F1", 0.4),
        ("validation_mismatched", "accuracy", "Accuracy", 0.3),
        ("validation_mismatched", "f1", "F1", 0.4),
    ]
    assert ModelCard(str(card)).data.eval_results == card.data.eval_results
    with serve() as hub:
        hub.connect(monkeypatch)
        card.validate()
        broken = ModelCard(text.replace("google-bert/bert-base-cased", "../local"))
        with pytest.raises(ValueError, match="base_model"):
            broken.validate()


def test_a_task_of_the_hub_names_its_data_set() -> None:
    spec = {"title": "CoLA", "dataset_name": "nyu-mll/glue", "dataset_config_name": "cola"}
    scores = {"step": 5, "epoch": 1, "split": "validation", "matthews_correlation": 0.5, "pearson": 0.25}
    text = model_card.model_card(record(task_spec=spec, evaluations=[scores], best=None))
    data = yaml.safe_load(text.split("---")[1])
    assert data["datasets"] == ["nyu-mll/glue"]
    [result] = data["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "CoLA",
        "type": "nyu-mll/glue",
        "config": "cola",
        "split": "validation",
    }
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [
        ("matthews_correlation", 0.5),
        ("pearsonr", 0.25),
    ]


@pytest.mark.parametrize(
    "model", ["/bert", "/a/b/bert", "./bert", "~/bert", "C:\\bert", "a/b/c", "../x", "", None]
)
def test_a_backbone_from_a_folder_is_not_named(model: object) -> None:
    text = model_card.model_card(record(model=model))
    assert "base_model" not in text
    assert not model or str(model) not in text


def test_a_folder_that_looks_like_a_name_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "runs/first" not in model_card.model_card(record(model="runs/first"))


def test_what_stays_at_home() -> None:
    text = model_card.model_card(record())
    assert "private" not in text
    spec = {"title": "CoLA", "dataset_name": "nyu-mll/glue"}
    own = model_card.model_card(record(task_spec=spec, arguments={"train_file": "private/data/a.csv"}))
    assert "nyu-mll" not in own
    assert "private" not in own


def test_the_baseline_is_not_called_second_order_and_warnings_are_passed_on() -> None:
    text = model_card.model_card(record(head_config={"pooling": "none"}, warnings=["collapsed *run*"]))
    assert "a linear classifier on its classification token" in text
    assert r"**Warning:** collapsed \*run\*" in text


def test_scores_settings_use_and_citation() -> None:
    text = model_card.model_card(record(), repo_id="me/zorps-sot", plot=True)
    assert "| Split | Accuracy | F1 |" in text
    assert r"| validation\_matched | 0.7000 | 0.4000 |" in text
    assert r"| validation\_mismatched | 0.3000 | 0.4000 |" in text
    assert "weights of epoch 2, the best of 3" in text
    assert "| train | 320 | 3 |" in text
    assert "second-order statistics of all its word tokens" in text
    assert "| `width_x` | 96 |" in text
    assert "| `learning_rate` | 2e-05 |" in text
    assert "| 2 | yes |" in text
    assert "![Loss and scores over the training](training.png)" in text
    assert 'pipeline("text-classification", model="me/zorps-sot", trust_remote_code=True)' in text
    assert 'classify("...")' in text
    assert "@article{xie2021sot," in text
    assert "2104.10935" in text


def test_the_length_is_that_of_the_training():
    cut = record(data={"max_length": 64}) | {"arguments": {"max_length": 128}}
    assert "| `max_length` | 64 |" in model_card.model_card(cut)
    assert "| `max_length` | 128 |" in model_card.model_card(cut | {"data": {}})


def test_code_of_a_pair_task_and_of_a_model_without_code() -> None:
    text = model_card.model_card(record(text_columns=["a", "b"]), repo_id="me/x", remote_code=False)
    assert 'classify({"text": "...", "text_pair": "..."})' in text
    assert "trust_remote_code" not in text
    assert "custom_code" not in text


@pytest.mark.parametrize("drop", [*record(), "all"])
def test_a_record_that_lacks_fields(drop: str) -> None:
    whole: dict[str, Any] = record()
    partial = {key: value for key, value in whole.items() if drop not in (key, "all")}
    text = model_card.model_card(partial, repo_id="me/x")
    assert card_problems(text) == []
    assert "```bibtex" in text
    ModelCard(text)


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [None], [{"split": None}], {"step": "x"}])
def test_a_record_with_fields_of_another_kind(value: object) -> None:
    for key in set(record()) - {"format_version"}:
        changed = record(**{key: value}) if key != "text_columns" else record()
        assert card_problems(model_card.model_card(changed, repo_id="me/x")) == []
    training_plot(record(best=value, evaluations=value, log_history=value, main_metric=value))


def test_an_unfinished_run_says_so() -> None:
    assert "not finished** (status: running)" in model_card.model_card(record(status=records.RUNNING))


def test_names_from_users_are_no_markup() -> None:
    spec = {"title": NASTY, "text_columns": ["text"], "dataset_name": NASTY}
    evaluations = [{"step": 20, "epoch": 2, "split": NASTY, "accuracy": 0.5}, {"step": 1, "epoch": 1}]
    text = model_card.model_card(
        record(
            task=NASTY,
            task_spec=spec,
            model=NASTY,
            head=NASTY,
            labels=[NASTY, "ok"],
            evaluations=evaluations,
            versions={NASTY: NASTY},
            environment={"device_name": NASTY},
            head_config={NASTY: 1, "pooling": NASTY},
        ),
        repo_id=None,
    )
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert card_problems(text) == []
    card = ModelCard(text)
    [result] = card.data.eval_results
    assert isinstance(result, EvalResult)
    assert result.dataset_name.startswith("a|b `c` *d* <script>")
    body = card.text
    assert "<script" not in body
    assert body.count("\n---") == 0
    rows = [line for line in body.splitlines() if line.startswith("|")]
    # An unescaped bar would make another column.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}
    assert not re.search(r"(?<!\\)[<`*]\w*script", body)
    assert "](http://y)" not in body.replace(r"\]", "")


def test_escaped_text_reads_as_it_was() -> None:
    for text in ("a|b", "*x* _y_", "<b>&amp;</b>", "`q`", "[a](b)", "1. x", "http://x.y", "a\\b", "§ ü 漢"):
        assert render(escape(text)) == text
    assert escape("a\nb\x1b") == r"a\\nb\\x1b"


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_the_plot_is_the_same_for_the_same_record() -> None:
    first = training_plot(record())
    assert first is not None
    assert png_size(first) == (1080, 384)
    assert training_plot(record()) == first
    assert training_plot(record(log_history=[])) != first
    nasty = training_plot(
        record(main_metric=NASTY, evaluations=[{"step": 1, "split": "$x_$ " + NASTY, "loss": 1.0}])
    )
    assert nasty is not None


def test_a_closed_form_shows_no_settings_of_updates():
    from sot_nlp.publishing.model_card import _training_settings

    arguments = {"learning_rate": 2e-5, "num_train_epochs": 3.0, "seed": 3, "max_length": 64}
    for name, shown in (("linear_probe", False), ("probe_then_tune", True)):
        settings = _training_settings({"arguments": arguments, "method": {"name": name, "strength": 10.0}})
        assert (settings["training_method"], settings["strength"], settings["seed"]) == (name, 10.0, 3)
        assert ("learning_rate" in settings) is shown
    assert "training_method" not in _training_settings(
        {"arguments": arguments, "method": {"name": "fine_tune"}}
    )


@pytest.mark.parametrize(("head", "count"), [(DEFAULT_PRESET, 36), ("sot", 18)])
def test_the_card_says_where_the_head_gained_and_where_it_lost(head: str, count: int) -> None:
    config = PRESETS[head].to_dict()
    sizes = {"task_spec": {"recipe": {"head.width_x": 56}}}
    text = model_card.model_card(
        record(head=head, head_config=config | {"width_x": 56, "token_norm": "none"}, **sizes)
    )
    _, known = text.split("## What is known of this head")
    results = (Path(__file__).parents[2] / "docs/results.md").read_text(encoding="utf-8")
    figures = re.findall(r"[+−][\d.]+ \[[+−]?[\d.]+, [+−][\d.]+\]", known)
    assert len(figures) == count
    assert [figure for figure in figures if figure not in results] == []
    for other in (
        record(head="text", head_config=PRESETS["text"].to_dict()),
        record(head=head, head_config=config | {"alpha": 0.6}),
        record(head=head, head_config=config | {"mean_width": 1024}),
        record(head=head, head_config=config | {"width_x": 56}),
        record(head=head, head_config=config | {"num_layers": 1}),
        record(head=head, head_config=config, **sizes),
    ):
        assert "What is known" not in model_card.model_card(other)
