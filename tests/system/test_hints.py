"""What a message tells the user to do is done as printed, and helps."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sot_nlp.cli import main
from sot_nlp.data.data_report import describe
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.task_data import TaskData, load_data
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.settings.command_line import parse_flags
from tests.support import tiny
from tests.support.saved_runs import save_run

TEXTS = tiny.sentences(12, seed=5)


def load(folder: Path, *flags: str) -> TaskData:
    """What a run does with the training file that the flags name."""
    settings, _ = parse_flags([*flags, "--cache_dir", str(folder / "cache")], "sot-nlp train", "")
    arguments = build_arguments([("flag", settings | {"validation_fraction": 0.5, "disable_tqdm": True})])
    return load_data(user_task(arguments), arguments, tiny.tokenizer("bert"))


def refusal(folder: Path, *flags: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, *flags)
    return str(caught.value)


def csv(folder: Path, labels: list[Any], **columns: Any) -> str:
    path = folder / "a.csv"
    pd.DataFrame({"text": TEXTS, "label": (labels * 12)[:12], **columns}).to_csv(path, index=False)
    return str(path)


def test_what_ax_needs(tmp_path, capsys):
    """The set has no training data: the message names both commands."""
    (tmp_path / "glue" / "diagnostic").mkdir(parents=True)
    rows = [f"{i}\t{text}\t{TEXTS[-i]}" for i, text in enumerate(TEXTS)]
    table = "\n".join(["index\tsentence1\tsentence2", *rows]) + "\n"
    (tmp_path / "glue" / "diagnostic" / "diagnostic.tsv").write_text(table)
    assert main(["train", "--task", "ax", "--model_name_or_path", "nowhere"]) == 2
    first, second = re.findall(r"`sot-nlp ([^`]*)`", capsys.readouterr().err)
    assert first == "train --task mnli"
    folder = save_run(
        tmp_path / "run",
        labels=("entailment", "neutral", "contradiction"),
        text_columns=("premise", "hypothesis"),
    )
    words = shlex.split(second.replace("FOLDER", str(folder)).replace("DIR", str(tmp_path / "out")))
    assert main([*words, "--data_dir", str(tmp_path / "glue"), "--cpu"]) == 0
    answers = json.loads((tmp_path / "out" / "test_predictions.json").read_text())
    assert len(answers) == 12
    assert {answer["prediction"] for answer in answers} <= {"entailment", "neutral", "contradiction"}


def test_a_column_of_zeros_and_ones_per_label(tmp_path, monkeypatch):
    frame = pd.DataFrame({"text": TEXTS, "news": [1, 1, 0] * 4, "sport": [0, 1, 0] * 4, "art": [0, 0, 1] * 4})
    frame.to_csv(tmp_path / "a.csv", index=False)
    message = refusal(tmp_path, "--train_file", str(tmp_path / "a.csv"))
    monkeypatch.chdir(tmp_path)
    steps = re.search(r"(df\['label'\] = .*), and (df\.to_json\(.*\))", message)
    for step in steps.groups():
        exec(step, {"df": frame})
    data = load(tmp_path, "--train_file", "data.jsonl")
    assert (data.kind, data.labels) == ("multi_label", ("art", "news", "sport"))
    found = data.report["splits"]
    counts = {name: sum(found[split]["labels"][name] for split in found) for name in data.labels}
    assert counts == {"art": 4, "news": 8, "sport": 4}


@pytest.mark.parametrize("shape", ["wrapped", "by columns", "split"])
def test_json_of_another_shape(tmp_path, monkeypatch, shape):
    frame = pd.DataFrame({"text": TEXTS, "label": ["yes", "no"] * 6})
    path = tmp_path / "a.json"
    orient = {"wrapped": "table", "by columns": None, "split": "split"}[shape]
    frame.to_json(path, orient=orient)
    message = refusal(tmp_path, "--train_file", str(path))
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"df\.to_json\([^)]*\)", message)[0], {"df": frame})
    assert load(tmp_path, "--train_file", "data.jsonl").labels == ("no", "yes")


def test_labels_that_differ_in_spelling_alone(tmp_path):
    path = csv(tmp_path, ["Yes", "no", "yes"])
    data = load(tmp_path, "--train_file", path)
    (line,) = [line for line in describe(data) if "differ in their spelling" in line]
    flags = re.search(r"(--label_mapping \S+=\S+) merges", line)[1].split()
    assert load(tmp_path, "--train_file", path, *flags).labels in (("Yes", "no"), ("no", "yes"))


def test_several_labels_that_differ_in_spelling_alone(tmp_path):
    path = csv(tmp_path, ["yes", "no", "yes", "Yes", "NO", "no", "so so", "So so", "so so"])
    lines = [line for line in describe(load(tmp_path, "--train_file", path)) if "in their spelling" in line]
    assert len(lines) == 3
    (hint,) = re.findall(r"(--label_mapping .*) merges", "\n".join(lines))
    # All of them in one flag: of one that is given twice, the last counts.
    assert len(shlex.split(hint)) == 4
    labels = load(tmp_path, "--train_file", path, *shlex.split(hint)).labels
    assert [label.lower() for label in labels] == ["no", "so so", "yes"]


@pytest.mark.parametrize("as_numbers", [True, False])
def test_missing_values_that_became_a_class(tmp_path, as_numbers):
    path = csv(tmp_path, [0, 1, 0, 1, "nan"])
    (line,) = [line for line in describe(load(tmp_path, "--train_file", path)) if "the label nan" in line]
    # pandas reads `nan` as a missing value, unless it is asked not to.
    frame = pd.read_csv(path, keep_default_na=as_numbers)
    rows = eval(re.search(r"df\[.*\]", line)[0], {"df": frame})
    assert len(rows) == 10  # the list is repeated to twelve


def test_examples_without_a_label(tmp_path):
    path = csv(tmp_path, [0, 1, 2, 0, 1, -1])
    (line,) = [
        line for line in describe(load(tmp_path, "--train_file", path)) if "-1" in line and "df" in line
    ]
    rows = eval(re.search(r"df\[df\.label != -1\]", line)[0], {"df": pd.read_csv(path)})
    rows.to_csv(tmp_path / "b.csv", index=False)
    assert load(tmp_path, "--train_file", str(tmp_path / "b.csv")).labels == ("0", "1", "2")


def test_decimal_commas(tmp_path):
    path = csv(tmp_path, ["0,5", "1,25", "3,0"])
    message = refusal(tmp_path, "--train_file", path)
    call = re.search(r"pandas\.(read_csv\(\.\.\., decimal=\",\"\))", message)[1]
    frame = eval(call.replace("...", "path"), {"read_csv": pd.read_csv, "path": path})
    frame.to_csv(tmp_path / "b.csv", index=False)
    data = load(tmp_path, "--train_file", str(tmp_path / "b.csv"))
    assert (data.kind, data.labels) == ("regression", None)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1", "1.5", "high"], "classification"),
        (["[news, sport]", "[news]", "[art, news]"], "classification"),
        (["a;b", "a", "b"], "classification"),
        (["0,5", "1,25"], "classification"),
    ],
)
def test_the_flag_that_decides(tmp_path, labels, kind):
    path = csv(tmp_path, labels)
    message = refusal(tmp_path, "--train_file", path)
    flags = re.search(rf"--problem_type {kind}", message)[0].split()
    assert set(load(tmp_path, "--train_file", path, *flags).labels) == set(labels)


def test_a_tsv_with_line_breaks_in_fields(tmp_path):
    frame = pd.DataFrame({"text": [f'{text}\n"again' for text in TEXTS], "label": ["yes", "no"] * 6})
    path = tmp_path / "a.tsv"
    frame.to_csv(path, sep="\t", index=False)
    path.write_text(path.read_text() + 'the "wug" runs\tno\n')
    message = refusal(tmp_path, "--train_file", str(path))
    flags = re.search(r"--quoting true", message)[0].split()
    data = load(tmp_path, "--train_file", str(path), *flags)
    assert data.report["splits"]["train"]["examples_in_file"] == 13
