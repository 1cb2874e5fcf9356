from sot_nlp.runs.collapse import collapse_warnings, fell, scale_warning

FALLING = [1.0 - 0.02 * i for i in range(30)]


def test_a_sound_run_has_no_warning():
    assert collapse_warnings([0, 1, 1, 0], FALLING, {"matthews_correlation": 0.4}, "classification") == []


def test_one_class_for_all_is_named_with_its_class():
    warnings = collapse_warnings(["yes\x1b"] * 3, FALLING, {"accuracy": 0.7}, "classification")
    assert len(warnings) == 1
    assert r"the same class (yes\x1b)" in warnings[0]
    assert "--warmup_ratio" in warnings[0]


def test_several_labels_are_compared_as_a_whole():
    (warning,) = collapse_warnings([["a", "b"], ["a", "b"]], FALLING, {}, "multi_label")
    assert "the same labels (a, b)" in warning
    (warning,) = collapse_warnings([[], []], FALLING, {}, "multi_label")
    assert "the same labels (none)" in warning
    assert not collapse_warnings([["a"], ["a", "b"]], FALLING, {}, "multi_label")


def test_a_loss_that_stays_is_named():
    (warning,) = collapse_warnings([0, 1], [0.69] * 40, {"accuracy": 0.5}, "classification")
    assert "loss did not fall" in warning


def test_chance_correlation_is_named_in_either_sign():
    for value in (0.0, 0.009, -0.009):
        assert collapse_warnings([0.1, 0.2], FALLING, {"pearson": value}, "regression")
    assert not collapse_warnings([0.1, 0.2], FALLING, {"pearson": -0.5}, "regression")


def test_a_loss_falls_by_at_least_two_percent_between_first_and_last_tenth():
    assert fell([1.0] * 5 + [0.9] * 5)
    assert not fell([1.0] * 5 + [0.99] * 5)
    assert fell([1.0, 1.0])  # too few lines to tell


def test_scores_that_their_mean_would_predict_better_are_named():
    rows = [{"label": 30.0, "prediction": 2.0}, {"label": 90.0, "prediction": 8.0}]  # in the right order
    (warning,) = scale_warning(rows)
    assert "off by 61.270 " in warning  # sqrt((28^2 + 82^2) / 2)
    assert "alone would be, 30.000:" in warning
    assert scale_warning([{**row, "prediction": 60.0} for row in rows]) == []  # the mean itself
    assert scale_warning(rows[:1]) == []
