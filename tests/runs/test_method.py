"""Which way a run trains, and whole runs whose head is solved in closed form."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer, records
from sot_nlp.cli import main
from sot_nlp.errors import UserError
from sot_nlp.runs import method as methods
from sot_nlp.settings.arguments import build_arguments
from tests.support import tiny

TEXTS = tiny.sentences(48, seed=3, low=3, high=9)
LABELS = {
    "classes": [("no", "yes")["wug" in text or "dax" in text or "the" in text] for text in TEXTS],
    "scores": [f"{len(text.split()) + 0.5}" for text in TEXTS],
    "several": [json.dumps([w for w in ("wug", "dax", "the") if w in text]) for text in TEXTS],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, labels in LABELS.items():
        for part, rows in (("train", slice(0, 30)), ("dev", slice(32, 48))):
            with (folder / f"{name}.{part}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["text", "label"])
                writer.writerows(zip(TEXTS[rows], labels[rows], strict=True))
    return folder


def train(files, backbone, out, *flags, data="classes"):
    words = f"train --train_file {files}/{data}.train.csv --validation_file {files}/{data}.dev.csv "
    words += f"--model_name_or_path {backbone} --output_dir {out} --cache_dir {files}/cache "
    return main([*words.split(), "--disable_tqdm", "--cpu", "--mixed_precision", "no", *flags])


@pytest.fixture(scope="module")
def probed(files, backbone_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "probed"
    assert train(files, backbone_folder("bert"), out) == 0
    return out


def test_few_texts_are_solved_in_closed_form_and_the_record_says_so(probed):
    record = records.read(probed)
    assert record["method"]["name"] == "linear_probe"
    assert record["method"]["reason"] == "30 training texts, 15 per label, fewer than 16"
    assert record["method"]["features"] == 32
    assert (record["head"], record["head_config"]["num_layers"]) == ("word_mean", 2)
    assert (record["status"], record["log_history"]) == (records.FINISHED, [])
    assert (record["best"]["step"], len(record["evaluations"])) == (0, 1)
    assert record["num_trainable_parameters"] == 2 * 32 + 2
    assert "linear probe" in (probed / "train.log").read_text()


def test_a_linear_probe_of_another_head_names_no_settings_of_updates(
    files, backbone_folder, tmp_path, capsys
):
    flags = ("--training_method", "linear_probe", "--head", "stock")
    assert train(files, backbone_folder("bert"), tmp_path / "out", *flags) == 0
    assert records.read(tmp_path / "out")["head"] == "stock"
    printed = capsys.readouterr().out
    assert "training method linear_probe: the head alone" in printed
    assert "default recipe" not in printed
    assert "learning_rate" not in printed


def test_what_was_solved_is_what_is_saved(probed, files, tmp_path):
    model = AutoSoTForSequenceClassification.from_pretrained(probed)
    logits = model(**load_tokenizer(probed)(TEXTS[32:], return_tensors="pt", padding=True)).logits
    saved = [row["probabilities"] for row in json.loads((probed / "predictions.json").read_text())]
    np.testing.assert_allclose(logits.softmax(-1).detach(), saved, atol=1e-5)
    output = tmp_path / "predicted.csv"
    flags = ["--file", f"{files}/classes.dev.csv", "--output", str(output), "--cpu"]
    assert main(["predict", str(probed), *flags, "--mixed_precision", "no"]) == 0
    with output.open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels == [model.config.id2label[int(k)] for k in logits.argmax(-1)]
    right = np.mean(np.array(labels) == np.array(LABELS["classes"][32:]))
    assert records.read(probed)["best"]["value"] == pytest.approx(right)


def test_a_model_that_was_trained_is_solved_again_as_it_is(probed, files, tmp_path):
    assert train(files, probed, tmp_path / "again", "--training_method", "linear_probe") == 0
    first, again = (json.loads((x / "predictions.json").read_text()) for x in (probed, tmp_path / "again"))
    assert [row["prediction"] for row in first] == [row["prediction"] for row in again]


@pytest.mark.parametrize("data", ["scores", "several"])
def test_scores_and_several_labels_are_solved_too(files, backbone_folder, tmp_path, data):
    flags = ["--training_method", "linear_probe"]
    flags += ["--label_mapping", "wug=wug", "dax=dax", "the=the"] if data == "several" else []
    assert train(files, backbone_folder("bert"), tmp_path / "out", *flags, data=data) == 0
    record = records.read(tmp_path / "out")
    assert record["task_spec"]["kind"] == {"scores": "regression", "several": "multi_label"}[data]
    assert record["method"]["name"] == "linear_probe"


def test_tuning_goes_on_from_the_closed_form(files, backbone_folder, tmp_path, probed):
    flags = ["--training_method", "probe_then_tune", "--num_train_epochs", "1", "--learning_rate", "1e-12"]
    still = [*flags, "--head_learning_rate", "1e-12"]
    assert train(files, backbone_folder("bert"), tmp_path / "out", *still) == 0
    record = records.read(tmp_path / "out")
    assert (record["head"], record["arguments"]["warmup_ratio"]) == ("word_mean", 0.1)
    assert (record["arguments"]["num_train_epochs"], record["best"]["step"]) == (1, 1)
    # An update of next to nothing leaves the closed form's predictions.
    rows = [json.loads((x / "predictions.json").read_text()) for x in (probed, tmp_path / "out")]
    probabilities = [[row["probabilities"] for row in part] for part in rows]
    np.testing.assert_allclose(*probabilities, atol=1e-4)


def test_a_draw_of_one_label_is_refused_on_one_line(files, backbone_folder, tmp_path, capsys):
    flags = ("--training_method", "linear_probe", "--max_train_samples", "1")
    assert train(files, backbone_folder("bert"), tmp_path / "out", *flags) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "training examples: 1, all of the same label" in error


def arguments(**flags):
    return build_arguments([("recipe of cola", {"learning_rate": 1e-4}), ("flag", flags)])


def own(**flags):
    return build_arguments([("flag", {"train_file": "a.csv", **flags})])


def data(labels, names=("no", "yes"), kind="classification"):
    class Split:
        def __len__(self):
            return len(self.labels)

    split = Split()
    split.labels = np.asarray(labels)
    return SimpleNamespace(splits={"train": split}, labels=names, kind=kind, stream=None)


@pytest.mark.parametrize(
    ("count", "names", "expected"),
    [
        (2, 2, "linear_probe"),
        (31, 2, "linear_probe"),
        (32, 2, "probe_then_tune"),
        (127, 8, "linear_probe"),
        (1000, 8, "probe_then_tune"),
        (1001, 200, "fine_tune"),
    ],
)
def test_the_number_of_texts_per_label_decides(count, names, expected):
    labels = np.arange(count) % names
    assert methods.by_size(data(labels, tuple(map(str, range(names))))).name == expected


def test_each_of_several_labels_counts_as_two():
    several = np.eye(3)[np.arange(32) % 3]
    names = ("a", "b", "c")
    assert methods.by_size(data(several, names, "multi_label")).name == "probe_then_tune"
    assert methods.by_size(data(several[:31], names, "multi_label")).name == "linear_probe"


def test_pairs_and_scores_are_left_to_updates():
    pairs = methods.choose(own(), data([0, 1]), sot_checkpoint=False, pairs=True)
    scores = methods.choose(own(), data(np.arange(9.0), None, "regression"), sot_checkpoint=False)
    assert [x.name for x in (pairs, scores)] == ["fine_tune"] * 2
    assert [x.reason for x in (pairs, scores)] == ["pairs of texts", "scores, not labels"]


@pytest.mark.parametrize(
    ("asked", "sot", "reason"),
    [
        (arguments(task="cola"), False, "the task's recipe"),
        (own(learning_rate=1e-3), False, "because of --learning_rate"),
        (own(head="sot"), False, "because of --head"),
        (own(freeze_backbone=True), False, "because of --freeze_backbone"),
        (own(), True, "the model is a SoT classifier, which is trained further"),
    ],
)
def test_whoever_chose_how_to_train_is_left_alone(asked, sot, reason):
    method = methods.choose(asked, data([0, 1]), sot_checkpoint=sot)
    assert (method.name, method.reason) == ("fine_tune", reason)
    assert methods.with_recipe(asked, method) is asked


def test_settings_that_choose_nothing_leave_the_choice_free():
    asked = own(seed=3, class_weights="balanced", max_length=64, output_dir="x", mixed_precision="no")
    assert methods.choose(asked, data([0, 1]), sot_checkpoint=False).name == "linear_probe"


def test_one_label_alone_is_left_to_updates():
    method = methods.choose(own(), data([1, 1, 1]), sot_checkpoint=False)
    assert method.name == "fine_tune"


def test_a_resumed_run_keeps_its_method():
    before = {"method": {"name": "probe_then_tune", "reason": "as then"}}
    method = methods.choose(own(num_train_epochs=20), data([0, 1]), sot_checkpoint=False, unfinished=before)
    assert (method.name, method.reason) == ("probe_then_tune", "as then")


def test_a_run_without_a_checkpoint_chooses_again(probed, files, backbone_folder, tmp_path, monkeypatch):
    out = tmp_path / "again"
    shutil.copytree(probed, out)
    records.write(out, {**records.read(probed), "status": records.INTERRUPTED})
    monkeypatch.setattr(methods, "FEW_PER_LABEL", 5)  # as if there were more texts now
    assert train(files, backbone_folder("bert"), out) == 0
    assert records.read(out)["method"]["name"] == "probe_then_tune"


def test_a_recipe_gives_way_to_the_method_and_a_flag_does_not():
    asked = build_arguments(
        [
            ("recipe of x", {"learning_rate": 1e-4, "head.width_x": 96, "warmup_steps": 9}),
            ("flag", {"training_method": "probe_then_tune", "max_train_steps": 7, "head_learning_rate": 0.5}),
        ]
    )
    given = methods.with_recipe(asked, methods.choose(asked, data([0, 1]), sot_checkpoint=False))
    assert (given.head, given.head_overrides) == ("word_mean", {})
    assert (given.learning_rate, given.head_learning_rate) == (5e-5, 0.5)
    assert given.max_train_steps == 7
    assert (given.warmup_ratio, given.warmup_steps) == (0.1, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"learning_rate": 1e-3, "num_train_epochs": 4}, "--learning_rate, --num_train_epochs: of no effect"),
        ({"lora_r": 4}, "--lora_r: of no effect"),
        ({"checkpointing_steps": "5"}, "--checkpointing_steps: of no effect"),
        ({"dataset_name": "x/y", "streaming": True}, "needs all training texts at once"),
    ],
)
def test_settings_that_a_closed_form_has_no_use_for_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        methods.check(own(training_method="linear_probe", **flags))
    methods.check(own(training_method="linear_probe", freeze_backbone=True, seed=3))


def test_the_folder_is_named_after_the_method_where_it_chooses_the_head():
    assert methods.folder_word(own()) == "auto"
    assert methods.folder_word(own(learning_rate=1e-3)) == "auto"  # the head may still depend on the backbone
    assert methods.folder_word(own(head="mapped_moments")) == "mapped_moments"
    assert methods.folder_word(own(training_method="linear_probe")) == "linear_probe"
    assert methods.folder_word(own(training_method="fine_tune", head="text")) == "text"


def test_few_texts_of_a_causal_model_are_solved_without_a_word_on_heads(
    files, backbone_folder, tmp_path, capsys
):
    assert train(files, backbone_folder("gpt2"), tmp_path / "out") == 0
    assert records.read(tmp_path / "out")["head"] == "word_mean"
    assert "no head that pools" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "flags", "head"),
    [
        ("gpt2", [], "stock"),
        ("openai-gpt", [], "stock"),
        ("gpt2", ["--head", "mapped_moments"], "mapped_moments"),
        ("gpt2", ["--head.num_layers", "1"], "mapped_moments"),
        ("gpt2", ["--freeze_backbone"], "mapped_moments"),
        ("bert", [], "mapped_moments"),
    ],
)
def test_all_of_a_causal_model_learns_with_its_own_head_unless_another_is_asked_for(
    files, backbone_folder, tmp_path, capsys, family, flags, head
):
    words = ("--training_method", "fine_tune", "--max_train_steps", "1", *flags)
    assert train(files, backbone_folder(family), tmp_path / "out", *words) == 0
    record = records.read(tmp_path / "out")
    assert record["head"] == record["arguments"]["head"] == head
    assert ("default recipe: head stock" in capsys.readouterr().out) == (head == "stock")
    saved = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "out")
    assert saved.config.head_preset == head
    again = train(files, tmp_path / "out", tmp_path / "again", *words[:2], "--max_train_steps", "1")
    assert again == 0
    assert records.read(tmp_path / "again")["head_config"] == record["head_config"]  # what it has stays
