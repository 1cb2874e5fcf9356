"""The head in closed form: optimality, invariance, few and odd labels, and the solution inside a model."""

import numpy as np
import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.closed_form import STRENGTHS, Features, Solution, solve, solve_head
from sot_nlp.training.evaluation import predict
from sot_nlp.training.loop import create_accelerator
from tests.support.training_case import PAD, Split, settings, tiny_model

COMMON = {"batch_size": 16, "pad_token_id": PAD, "padding_side": "right"}
RANDOM = np.random.RandomState(0)


def data(count: int, size: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % classes
    features = RANDOM.normal(size=(count, size)) + 0.7 * np.eye(classes, size)[labels]
    return features * RANDOM.uniform(0.1, 10, size) + RANDOM.normal(size=size), labels


def logits(solution: Solution, features: np.ndarray) -> np.ndarray:
    return features @ solution.weight.T + solution.bias


def standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = features.std(0) * np.sqrt(features.shape[1])
    return (features - features.mean(0)) / scale, scale


@pytest.mark.parametrize(("count", "size"), [(60, 5), (12, 30)])
def test_the_solution_is_the_minimum_of_the_penalised_cross_entropy(count, size):
    features, labels = data(count, size)
    solution = solve(features, labels, kind="classification", num_outputs=3)
    scores = logits(solution, features)
    residual = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(3)[labels]
    inputs, scale = standardised(features)
    gradient = residual.T @ inputs + solution.weight * scale / solution.strength
    assert np.abs(gradient).max() < 2e-3
    assert np.abs(residual.sum(0)).max() < 2e-3


def test_ridge_is_the_normal_equations():
    features, _ = data(50, 4)
    scores = features @ [1.0, -2.0, 0.5, 0.0] + RANDOM.normal(size=50)
    solution = solve(features, scores.astype(np.float32), kind="regression", num_outputs=1)
    inputs, _ = standardised(features)
    gram = inputs.T @ inputs + np.eye(4) / solution.strength
    expected = inputs @ np.linalg.solve(gram, inputs.T @ (scores - scores.mean())) + scores.mean()
    np.testing.assert_allclose(logits(solution, features)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_units_and_origin_of_the_features_change_nothing(kind):
    features, labels = data(45, 6)
    targets = {"classification": labels, "multi_label": np.eye(3)[labels], "regression": labels * 1.5}[kind]
    outputs = 1 if kind == "regression" else 3
    moved = features * RANDOM.uniform(1e-3, 1e3, 6) + RANDOM.normal(size=6)
    one, other = (solve(x, targets, kind=kind, num_outputs=outputs) for x in (features, moved))
    assert one.strength == other.strength
    np.testing.assert_allclose(logits(one, features), logits(other, moved), atol=2e-3)


def test_two_classes_have_opposite_logits_and_the_strength_that_loses_least_is_taken():
    features, labels = data(60, 8, classes=2)
    solution = solve(features, labels, kind="classification", num_outputs=2)
    np.testing.assert_allclose(solution.weight[0], -solution.weight[1])
    assert tuple(solution.held_out_loss) == STRENGTHS
    assert solution.held_out_loss[solution.strength] == min(solution.held_out_loss.values())
    # Labels without any relation to the features: the strongest penalty.
    noise = solve(RANDOM.normal(size=(200, 40)), labels[RANDOM.randint(0, 60, 200)], **KIND)
    assert noise.strength == STRENGTHS[0]


KIND = {"kind": "classification", "num_outputs": 2}


def test_one_example_of_each_class_is_enough():
    features = RANDOM.normal(size=(3, 20))
    solution = solve(features, np.array([2, 0, 1]), kind="classification", num_outputs=3)
    assert (solution.folds, solution.held_out_loss) == (0, {})
    assert logits(solution, features).argmax(1).tolist() == [2, 0, 1]


def test_classes_rarer_than_there_are_folds_do_not_stop_the_choice():
    features, labels = data(80, 5, classes=2)
    labels = np.where(np.arange(80) == 7, 2, labels)
    solution = solve(features, labels, kind="classification", num_outputs=3)
    assert solution.folds == 5


def test_a_class_without_examples_is_never_predicted():
    features, labels = data(40, 5, classes=2)
    solution = solve(features, labels * 2, kind="classification", num_outputs=3)  # 0 and 2
    assert set(logits(solution, RANDOM.normal(size=(500, 5)) * 10).argmax(1)) == {0, 2}


def test_a_label_that_all_examples_hold_keeps_its_odds():
    features, labels = data(40, 5, classes=2)
    held = np.stack([labels, np.ones(40), np.zeros(40)], 1).astype(np.float32)
    solution = solve(features, held, kind="multi_label", num_outputs=3)
    np.testing.assert_allclose(solution.weight[1:], 0)
    np.testing.assert_allclose(solution.bias[1:], [np.log(81), -np.log(81)])


def test_class_weights_count_as_copies_of_the_examples():
    features, labels = data(40, 5, classes=2)
    twice = np.concatenate([np.arange(40), np.flatnonzero(labels == 1)])
    weighted = solve(features, labels, class_weights=np.array([1.0, 2.0]), **KIND)
    copied = solve(features[twice], labels[twice], **KIND)
    # The copies move the mean and the scale too, so only the balance between the classes is the same.
    shares = [(logits(x, features).argmax(1) == 1).mean() for x in (weighted, copied)]
    assert abs(shares[0] - shares[1]) <= 0.05
    assert shares[0] > (logits(solve(features, labels, **KIND), features).argmax(1) == 1).mean() - 1e-9


def test_the_strength_is_chosen_by_the_loss_that_is_fitted():
    """Of a rare class with a large weight: the plain loss would choose by the other class alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    source = np.random.RandomState(0)
    labels = (source.rand(200) < 0.08).astype(np.int64)
    features = source.normal(size=(200, 60)) + 1.2 * np.eye(2, 60)[labels]
    of_class = len(labels) / (2 * np.bincount(labels))
    weights, (x, _) = of_class[labels], standardised(features)
    expected: dict[str, dict[float, float]] = {"weighted": {}, "plain": {}}
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(x, labels))
    for strength in STRENGTHS:
        losses = np.zeros(200)
        for rows, out in folds:
            model = LogisticRegression(C=strength, tol=1e-7, max_iter=5000)
            model.fit(x[rows], labels[rows], sample_weight=weights[rows] / weights.mean())
            losses[out] = -model.predict_log_proba(x[out])[np.arange(len(out)), labels[out]]
        expected["weighted"][strength] = np.average(losses, weights=weights)
        expected["plain"][strength] = losses.mean()
    solution = solve(features, labels, class_weights=of_class, **KIND)
    assert solution.held_out_loss == pytest.approx(expected["weighted"], rel=1e-6)
    best = {name: min(losses, key=losses.__getitem__) for name, losses in expected.items()}
    assert solution.strength == best["weighted"] != best["plain"]


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(UserError, match="20, all with the same features"):
        solve(np.ones((20, 3)), np.arange(20) % 2, **KIND)
    with pytest.raises(UserError, match="training examples: 4, all of the same label"):
        solve(RANDOM.normal(size=(4, 3)), np.zeros(4, dtype=np.int64), **KIND)
    with pytest.raises(UserError, match="not all finite"):
        solve(np.full((2, 3), np.nan), np.array([0, 1]), **KIND)


# "sum" has two output linears; the stock head of a causal model is one without a bias.
@pytest.mark.parametrize("head", ["text", "words", "stock"])
def test_the_solution_is_in_the_model(head):
    model, split = tiny_model(head=head), Split(60)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    solution, scores = solved(model, split)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("_output." in name for name in changed)
    again, repeated = solved(tiny_model(head=head), split)
    np.testing.assert_array_equal(scores, repeated)
    assert solution.strength == again.strength
    features = predict(Features(model), split, create_accelerator(settings()), **COMMON)
    np.testing.assert_allclose(scores, logits(solution, features), atol=1e-4)
    assert np.ptp(scores[:, 0]) > 1e-3


@pytest.mark.parametrize("head", ["text", "sot"])
def test_what_is_tuned_after_is_solved_as_training_sees_it(head):
    """Training normalises by its batches: a head solved for other features would start far above chance."""
    model, split = tiny_model(head=head, dropout=0.0, layers=4), Split(60)
    solve_head(
        model, split, create_accelerator(settings()), kind="classification", tuned_after=True, **COMMON
    )
    norm = model.classifier.words.map_norm
    assert (norm.momentum, norm.training) == (0.1, False)
    batch = split.collate(np.arange(60), pad_token_id=PAD)
    evaluated, trained = (model.train(mode)(**batch).loss.item() for mode in (False, True))
    assert evaluated < 0.7
    assert trained == pytest.approx(evaluated, abs=0.05)


def test_a_head_without_a_bias_is_solved_without_one():
    model, split = tiny_model(head="stock"), Split(60)
    model.classifier.class_token_output.bias = None
    solution, scores = solved(model, split)
    assert not solution.bias.any()
    assert np.isfinite(scores).all()


def solved(model, split):
    accelerator = create_accelerator(settings())
    solution = solve_head(model, split, accelerator, kind="classification", **COMMON)
    return solution, predict(model, split, accelerator, **COMMON)
