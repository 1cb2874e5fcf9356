"""Heads on frozen features: the features are the backbone's, and the command trains every arm on them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sot_nlp.cli import main
from sot_nlp.commands import probe as probe_command
from sot_nlp.data.token_split import TokenSplit
from sot_nlp.errors import UserError
from sot_nlp.studies.probe import passes as probe_passes
from sot_nlp.studies.probe import probe
from sot_nlp.training.speed.features import CLASS_TOKEN, SEPARATOR, WORD, load_features
from tests.support import tiny


@pytest.fixture
def backbone(backbone_folder):
    from sot_nlp.modeling.auto import AutoSoTForSequenceClassification

    return AutoSoTForSequenceClassification.from_pretrained(
        backbone_folder("bert"), num_labels=2, head="stock", separator_token_ids=[2, 3]
    ).eval()


def split_of(texts, tokenizer):
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    lengths = np.array([len(ids) for ids in encoded])
    return TokenSplit(
        name="train",
        input_ids=np.concatenate(encoded).astype(np.int32),
        token_type_ids=None,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        labels=np.arange(len(texts)) % 2,
        indices=np.arange(len(texts)),
    )


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_features_are_the_backbones_hidden_states(tmp_path, backbone, num_layers):
    tokenizer = tiny.tokenizer("bert")
    texts = tiny.sentences(70)
    features = load_features(
        backbone, split_of(texts, tokenizer), cache=tmp_path, pad_token_id=0, num_layers=num_layers
    )
    for i in (0, 11, 69):
        with torch.no_grad():
            expected = backbone.bert(**tokenizer(texts[i], return_tensors="pt"), output_hidden_states=True)
        states, kinds = features.batch(np.array([i]), num_layers)
        assert states.shape[2] == num_layers
        for kept, layer in zip(states[0].unbind(1), expected.hidden_states[-num_layers:], strict=True):
            torch.testing.assert_close(kept.float(), layer[0], atol=4e-3, rtol=2e-3)
        assert kinds[0].tolist() == [CLASS_TOKEN, *[WORD] * (len(kinds[0]) - 2), SEPARATOR]
        torch.testing.assert_close(features.class_token(np.array(i), stock=False), states[0, 0, -1])
        torch.testing.assert_close(
            features.class_token(np.array([i]), stock=True).float(),
            expected.pooler_output,
            atol=4e-3,
            rtol=2e-3,
        )
    assert features.subset(np.array([5, 3])).indices.tolist() == [5, 3]


def test_features_are_kept_by_content_and_made_again_where_damaged(tmp_path, backbone, monkeypatch):
    split = split_of(tiny.sentences(10), tiny.tokenizer("bert"))
    first = load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    states = np.array(first.states)
    calls = []
    encode = type(backbone).encode
    monkeypatch.setattr(type(backbone), "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    again = load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    assert not calls
    assert (again.states == states).all()
    damaged = first.folder / "states.bin"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    assert (load_features(backbone, split, cache=tmp_path, pad_token_id=0).states == states).all()
    assert calls
    calls.clear()
    load_features(
        backbone, dataclasses.replace(split, lengths=split.lengths - 1), cache=tmp_path, pad_token_id=0
    )
    assert calls
    calls.clear()
    with torch.no_grad():
        next(backbone.bert.parameters()).add_(1e-3)
    load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    assert calls


@pytest.fixture
def files(tmp_path):
    """Texts whose label is whether `wug` stands before `dax`: words know it, a random class token hardly."""
    source = np.random.default_rng(0)
    for name, count in (("train", 160), ("dev", 60)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for text in tiny.sentences(count, seed=count, low=2, high=6):
                label = int(source.integers(2))
                writer.writerow([("zorp " * 2 if label else "") + text, ("no", "yes")[label]])
    return tmp_path


def command(files, backbone_folder, *words):
    return [
        *("--train_file", str(files / "train.csv"), "--validation_file", str(files / "dev.csv")),
        *("--model_name_or_path", str(backbone_folder("bert")), "--cache_dir", str(files / "cache")),
        *("--output_dir", str(files / "out"), "--disable_tqdm", "--cpu", *words),
    ]


def test_the_command(files, backbone_folder, capsys, monkeypatch):
    monkeypatch.setattr(probe, "SEEDS_PER_PASS", 4)
    words = ("--arms", "class_token", "mean", "vision", "--seeds", "6", "--num_train_epochs", "3")
    assert (
        probe_command.run(command(files, backbone_folder, *words, "--jobs", "1", "--save", "vision"), "p")
        == 0
    )
    results = json.loads((files / "out" / "results.json").read_text())
    cells = results["cells"]
    assert [(cell["arm"], cell["seed"]) for cell in cells] == [
        (arm, seed) for arm in ("class_token", "mean", "vision") for seed in range(42, 48)
    ]
    assert all(cell["curve"][-1] == [3.0, cell["score"]] for cell in cells)
    assert {cell["data_seed"] for cell in cells} == set(range(10_042, 10_048))
    assert str(files) not in (files / "out" / "results.json").read_text()
    assert results["command"].startswith("p --train_file train.csv ")
    assert "--arms class_token mean vision --seeds 6 " in results["command"]
    printed = capsys.readouterr().out
    assert "3 arms x 6 seeds" in printed

    # The saved model is the first seed's: it scores what the probe says.
    from sot_nlp.modeling.auto import AutoSoTForSequenceClassification

    model = AutoSoTForSequenceClassification.from_pretrained(files / "out" / "model").eval()
    tokenizer = tiny.tokenizer("bert")
    rows = list(csv.DictReader((files / "dev.csv").open()))
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1).tolist()
    right = np.mean(
        [model.config.id2label[p] == row["label"] for p, row in zip(predicted, rows, strict=True)]
    )
    first = next(cell for cell in cells if (cell["arm"], cell["seed"]) == ("vision", 42))
    assert first["metric"] == "accuracy"
    assert right == pytest.approx(first["score"], abs=0.017)  # one example at most, by half precision


def test_each_arm_has_its_own_kind_of_head(files, backbone_folder, monkeypatch):
    seen = []
    train = probe_passes.train_passes
    monkeypatch.setattr(
        probe_passes, "train_passes", lambda passes, **k: seen.extend(passes) or train(passes, **k)
    )
    words = ("--arms", *probe.ARMS, "--seeds", "1", "--num_train_epochs", "1", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words), "p")
    configs = {one_pass.arm: one_pass.heads[0].config for one_pass in seen}
    kinds = {arm: (config.pooling, config.fusion) for arm, config in configs.items()}
    assert kinds == {
        "class_token": ("none", "class_token"),
        "mean": ("mean", "words"),
        "class_and_mean": ("mean", "sum"),
        "max": ("max", "words"),
        "vision_words": ("cross_covariance", "words"),
        "text_words": ("cross_covariance", "words"),
        "stock": ("none", "class_token"),
        "vision": ("cross_covariance", "sum"),
        "text": ("cross_covariance", "sum"),
        "sot": ("cross_covariance", "sum"),
        "sot_mean": ("mean", "sum"),
        "sot_mapped_mean": ("mapped_mean", "sum"),
        "sot_mapped_mean_wide": ("mapped_mean", "sum"),
        "sot_unscaled": ("cross_covariance", "sum"),
        "sot_mean_unscaled": ("mean", "sum"),
        "sot_max": ("max", "sum"),
        "sot_attention": ("attention", "sum"),
        "sot_isqrt": ("covariance", "sum"),
        "moments": ("moments", "sum"),
        "mapped_moments": ("moments", "sum"),
        "mapped_moments_wide": ("moments", "sum"),
    }
    channels = {arm: config.num_heads * config.width_x for arm, config in configs.items()}
    sot = configs["sot"]
    assert channels["sot_mapped_mean"] == sot.width_x + sot.width_y
    assert channels["sot_mapped_mean_wide"] > 7 * (sot.width_x + sot.width_y)
    layers = {arm: config.num_layers for arm, config in configs.items()}
    mixing = [arm for arm in layers if arm.startswith(("sot", "moments", "mapped"))]
    assert {layers.pop(arm) for arm in mixing} == {2}  # as many as the backbone has
    assert set(layers.values()) == {1}


def test_a_process_of_its_own_changes_nothing(files, backbone_folder):
    words = ("--arms", "text", "--seeds", "2", "--num_train_epochs", "2")
    scores = []
    for jobs in ("1", "2"):  # (the same probe again, which may replace its own results)
        probe_command.run(command(files, backbone_folder, *words, "--jobs", jobs), "p")
        cells = json.loads((files / "out" / "results.json").read_text())["cells"]
        scores.append([cell["curve"] for cell in cells])
    assert scores[0] == scores[1]


def test_the_scale_of_scores_changes_nothing_but_the_decisions_scale(files, backbone_folder, monkeypatch):
    done = []
    train = probe_passes.train_passes
    monkeypatch.setattr(
        probe_passes, "train_passes", lambda passes, **k: done.append(train(passes, **k)) or done[-1]
    )
    rows = {name: list(csv.reader((files / f"{name}.csv").open(newline=""))) for name in ("train", "dev")}
    for low, high in ((0.5, 1.5), (40, 80)):
        for name, (header, *texts) in rows.items():
            with (files / f"{name}.csv").open("w", newline="") as file:
                scored = [(text, low if label == "no" else high) for text, label in texts]
                csv.writer(file).writerows([header, *scored])
        words = ("--arms", "text", "--seeds", "2", "--num_train_epochs", "3", "--learning_rate", "0.01")
        flags = ("--jobs", "1", "--problem_type", "regression", "--output_dir", str(files / f"{high}"))
        probe_command.run(command(files, backbone_folder, *words, *flags), "p")
    ((own,), (moved,)) = done
    np.testing.assert_allclose(moved.decisions, 20 + 40 * own.decisions, rtol=1e-3)
    np.testing.assert_allclose(moved.curves, own.curves, rtol=1e-3)
    assert 40 < moved.decisions.mean() < 80
    for name, weight in moved.weights.items():  # what is saved has the scores' scale
        factor = 40 if "output" in name else 1
        shift = 20 if name == "word_output.bias" else 0
        torch.testing.assert_close(weight, shift + factor * own.weights[name], rtol=1e-3, atol=1e-3)


def test_rates_are_chosen_on_held_out_training_data(files, backbone_folder, capsys, monkeypatch):
    seen = []
    train = probe_passes.train_passes
    monkeypatch.setattr(
        probe_passes, "train_passes", lambda passes, **k: seen.append(passes) or train(passes, **k)
    )
    words = ("--arms", "class_token", "mean", "--seeds", "2", "--num_train_epochs", "4", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words, "--learning_rates", "1e-7", "0.02"), "p")
    choosing, final = seen
    assert {one_pass.arguments.learning_rate for one_pass in choosing} == {1e-7, 0.02}
    for one_pass in choosing:
        held = set(one_pass.validation.indices.tolist())
        assert len(held) == 16
        assert held.isdisjoint(one_pass.train.indices.tolist())
    assert all(len(one_pass.train) == 160 and len(one_pass.validation) == 60 for one_pass in final)
    assert {(one_pass.arm, one_pass.arguments.learning_rate) for one_pass in final} >= {("mean", 0.02)}
    printed = capsys.readouterr().out
    assert "chosen on held-out training data" in printed
    assert "Marked: the rates were chosen on 16 held-out examples" in printed


def test_of_rates_that_do_equally_well_the_first_is_chosen(files, backbone_folder, monkeypatch, capsys):
    train = probe_passes.train_passes

    def level(passes, **options):
        done = train(passes, **options)
        return [dataclasses.replace(one, curves=[[(1.0, 0.5)]] * len(one.curves)) for one in done]

    monkeypatch.setattr(probe_passes, "train_passes", level)
    words = ("--arms", "class_token", "--seeds", "1", "--num_train_epochs", "1", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words, "--learning_rates", "1e-3", "0.02"), "p")
    assert "chosen on held-out training data: class_token 0.001" in capsys.readouterr().out


def test_the_results_of_another_probe_are_kept(files, backbone_folder, monkeypatch, capsys):
    words = ("--arms", "class_token", "mean", "--seeds", "1", "--num_train_epochs", "1", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words), "p")
    assert main(["report", str(files / "out")]) == 0  # which reads the results alone
    before = {path: path.read_bytes() for path in (files / "out").iterdir()}
    words_of_study = ("--tasks", "cola", "--models", "x", "--heads", "stock")
    assert main(["compare", *words_of_study, "--output_dir", str(files / "out")]) == 2
    assert "out: its results.json is not a study's" in capsys.readouterr().err
    monkeypatch.setattr(probe.Probe, "run", lambda _: pytest.fail("trained before the refusal"))
    other_task = ("--train_file", str(files / "dev.csv"))
    for changed, name in (
        (("--arms", "mean", "class_token"), "arms"),
        (("--seeds", "2"), "seeds"),
        (("--learning_rates", "0.1", "0.2"), "learning_rates"),
        (("--learning_rate", "0.1"), "learning_rate"),
        (("--model_name_or_path", str(backbone_folder("roberta"))), "model_name_or_path"),
        (other_task, "train_file"),
    ):
        with pytest.raises(UserError, match=rf"probe with other settings \({name}\); give another folder"):
            probe_command.run(command(files, backbone_folder, *words, *changed), "p")
    (files / "out" / "probe.json").unlink()  # as another program's folder, or an earlier version's
    with pytest.raises(UserError, match=r"out: is not empty and holds no probe\.json; give another folder"):
        probe_command.run(command(files, backbone_folder, *words), "p")
    assert {path: path.read_bytes() for path in before if path.exists()}.items() < before.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "cola", "--arms", "clas_token"], "did you mean class_token"),
        (["--task", "cola", "--torch_compile"], "--torch_compile: does not apply to a probe"),
        (["--task", "cola", "--head", "text"], "--head: does not apply"),
        (["--task", "cola", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--task", "cola", "--seeds", "many"], "--seeds"),
        (["--task", "cola", "--num_train_epochs", "1.5"], "needs a whole number"),
        (["--task", "cola", "--learning_rates", "-1"], "--learning_rates"),
        (["--task", "cola", "--save", "max"], "not among --arms"),
        (["--seeds", "3"], "nothing to probe on"),
        (["--task", "cola", "--num_trai_epochs", "1"], "did you mean --num_train_epochs"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message):
        probe_command.run(words, "sot-nlp probe")


def test_the_settings_that_ship_hold():
    config = Path(__file__).parents[3] / "studies" / "probe.yaml"
    arguments, file = probe_command._arguments(["--config", str(config), "--task", "cola"], "p")
    assert file == str(config)
    assert (arguments.learning_rate, arguments.num_train_epochs, arguments.seed) == (1e-3, 5, 0)


def test_help(capsys):
    assert probe_command.run(["--help"], "sot-nlp probe") == 0
    printed = capsys.readouterr().out
    assert "vision_words" in printed
    assert "--learning_rate" in printed
