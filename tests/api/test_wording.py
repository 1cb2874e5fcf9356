"""What goes wrong or is noted from Python is worded as Python users wrote it: no flags, no cached files."""

import shutil

import datasets
import pandas as pd
import pytest

import sot_nlp
from sot_nlp.api.wording import python_words
from sot_nlp.errors import UserError, worded
from sot_nlp.tasks.metrics import METRICS
from tests.support.saved_runs import LABELS, TEXTS, save_run

QUICK = {"max_length": 16, "max_train_steps": 2, "disable_tqdm": True}


@pytest.mark.parametrize(
    ("flags", "python"),
    [
        ("--max_length 64 is more than", "max_length=64 is more than"),
        ("(--quoting false keeps them)", "(quoting=False keeps them)"),
        ("--problem_type classification reads it", 'problem_type="classification" reads it'),
        ("--warmup_steps or --warmup_ratio, not both", "warmup_steps or warmup_ratio, not both"),
        ("--label_mapping 0=NAME ...", "label_mapping 0=NAME ..."),
        ("--learning_rate 1e-3.", "learning_rate=1e-3."),
        ("give --validation_file", "give validation_data"),
        ("import the file that registers it (--plugin FILE.py)", "import the file that registers it"),
        ("run `sot-nlp evaluate F --task ax`", "run `sot-nlp evaluate F --task ax`"),
        ("--no_setting 5, a--seed", "--no_setting 5, a--seed"),
        ("train: 3 examples of /c/a.parquet; 2", "train: 3 examples of train_data; 2"),
        (
            "/c/a.parquet, row 3: bad; /c/a.parquet, row 1",
            "train_data, row 2 (counted from 0): bad; train_data, row 0 (counted from 0)",
        ),
    ],
)  # fmt: skip
def test_flags_become_arguments_and_files_their_names(flags, python):
    with python_words({"validation_file": "validation_data"}, {"/c/a.parquet": "train_data"}):
        assert worded(flags) == python
    assert worded(flags) == flags
    with pytest.raises(UserError) as caught, python_words({}, {"/c/a.parquet": "train_data"}):
        raise UserError("/c/a.parquet: --seed 1")
    assert str(caught.value) == "train_data: seed=1"


ROWS = [{"text": text, "label": str(len(text) % 2)} for text in TEXTS]
FORMS = {
    "rows": list,
    "frame": pd.DataFrame,
    "dataset": datasets.Dataset.from_list,
    "columns": lambda rows: {key: [row[key] for row in rows] for key in rows[0]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"text": None}, {}, r"^train_data, row 1 \(counted from 0\): 'text' is null; expected a text$"),
        ({"label": None}, {}, r"^train_data, row 1 \(counted from 0\) has no label"),
        ({"label": "a;0"}, {"label_mapping": {"x": "y"}}, "^label_mapping: train_data has none of x"),
        ({}, {"max_length": 513}, "^max_length 513 is more than the model's 512 positions$"),
        ({}, {"label_column_name": "tag"}, "^train_data has no column 'tag'; its columns are text, label$"),
        ({}, {"problem_type": "multi_label"}, r"train_data, row 0 \(counted .* is not a list"),
    ],
)  # fmt: skip
def test_a_mistake_names_argument_and_row(form, change, settings, message, backbone_folder, tmp_path):
    rows = [row | change if n == 1 else row for n, row in enumerate(ROWS)]
    model = str(backbone_folder("bert"))
    with pytest.raises(sot_nlp.UserError, match=message) as caught:
        sot_nlp.train(
            FORMS[form](rows),
            model_name_or_path=model,
            output_dir=tmp_path / "out",
            cache_dir=tmp_path / "c",
            **settings,
        )
    assert not {"--", ".parquet", "\n"} & {
        part for part in ("--", ".parquet", "\n") if part in str(caught.value)
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "^warmup_ratio: give either warmup_steps or warmup_ratio"),
        ({"output_dir": "{tmp}/full"}, "^output_dir .*full: is not empty"),
        ({"dataset_name": "x/y"}, "^dataset_name and train_data: give only one of them$"),
        ({"lora_r": 4, "trainable_layers": 1}, "^lora_r: excludes trainable_layers$"),
        ({"model_name_or_path": "./none"}, "^model_name_or_path none: no such folder$"),
        ({"head": "sott"}, "^head sott: "),
    ],
)
def test_settings_are_named_as_arguments(settings, message, backbone_folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    given = {"model_name_or_path": str(backbone_folder("bert")), "output_dir": str(tmp_path / "out")}
    given |= {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in settings.items()}
    with pytest.raises(sot_nlp.UserError, match=message):
        sot_nlp.train(ROWS, **given)


def test_what_a_run_prints_is_worded_so(backbone_folder, tmp_path, capsys):
    rows = [row | {"label": int(row["label"])} for row in ROWS * 2]
    run = sot_nlp.train(
        rows, model_name_or_path=str(backbone_folder("bert")), output_dir=tmp_path / "o", **QUICK
    )
    printed = capsys.readouterr().out
    assert (
        "guessed: columns text, label, kind classification (text_column_names and label_column_name"
        in printed
    )
    assert f"of {len(rows)} examples of train_data" in printed
    assert "--" not in printed
    assert ".parquet" not in printed
    classifier = run.classifier
    assert classifier.evaluate() == pytest.approx(run.scores)
    assert "of train_data, held out of the training data" in capsys.readouterr().out
    with pytest.raises(sot_nlp.UserError, match=r"^data, row 0 \(counted from 0\): label '7' is not one"):
        classifier.evaluate([{"text": "a", "label": 7}])
    with pytest.raises(sot_nlp.UserError, match=r"^max_length 513 is more than"):
        classifier.evaluate(rows, max_length=513)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(sot_nlp.UserError, match=r"^the train_data of .* examples to evaluate\(data\)$"):
        classifier.evaluate()


def test_loading_names_arguments_too(tmp_path):
    folder = save_run(tmp_path / "run")
    with pytest.raises(sot_nlp.UserError, match=r"^max_length=600: the model takes at most 512 tokens"):
        sot_nlp.load(folder, max_length=600)
    with pytest.raises(sot_nlp.UserError, match=r'^mixed_precision="fp16": a CPU has no fp16'):
        sot_nlp.load(folder, mixed_precision="fp16", cpu=True)
    assert sot_nlp.load(folder).labels == LABELS


def test_a_metric_that_is_not_registered_is_worded_for_an_import(tmp_path, backbone_folder):
    pd.DataFrame(ROWS * 2).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "task.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nmetrics: [misses]\n"
        "files: {train: data.csv, validation: data.csv}\n"
    )

    def register():
        sot_nlp.register_metric(
            "misses", lambda p, r: float((p != r).sum()), kinds="classification", higher_is_better=False
        )

    model, task = str(backbone_folder("bert")), str(tmp_path / "task.yaml")
    try:
        register()
        run = sot_nlp.train(task=task, model_name_or_path=model, output_dir=tmp_path / "o", **QUICK)
        del METRICS["misses"]
        message = rf"^{task}:3: metrics: 'misses' is not known; .*: import the file that registers it$"
        with pytest.raises(sot_nlp.UserError, match=message):
            run.classifier.evaluate()
        register()
        assert run.classifier.evaluate() == pytest.approx(run.scores)
    finally:
        METRICS.pop("misses", None)
