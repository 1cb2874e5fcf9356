import numpy as np
import pytest

from sot_nlp.data.splitting import hold_out, subset


def test_each_class_keeps_its_share():
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    out = hold_out(labels, 1000, 0.1, seed=0)
    assert np.bincount(labels[out]).tolist() == [70, 25, 5]
    assert (np.diff(out) > 0).all()


def test_remainders_add_up_to_the_share():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    out = hold_out(labels, 10, 0.3, seed=1)
    assert len(out) == 3
    assert np.bincount(labels[out], minlength=3).tolist() == [1, 1, 1]


def test_draw_is_a_function_of_the_seed():
    labels = np.arange(100) % 2
    draws = [hold_out(labels, 100, 0.2, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_class_of_one_example_stays_in_training():
    labels = np.array([0] * 9 + [1])
    for seed in range(20):
        assert 9 not in hold_out(labels, 10, 0.5, seed)
        assert len(hold_out(labels, 10, 0.5, seed)) == 5


def test_scores_are_spread_over_their_range():
    scores = np.linspace(0, 1, 100, dtype=np.float32)
    out = hold_out(scores, 100, 0.2, seed=3)
    assert np.histogram(scores[out], bins=10, range=(0, 1))[0].tolist() == [2] * 10


def test_several_labels_and_no_labels_give_the_share_too():
    several = np.random.RandomState(0).randint(0, 2, (30, 4)).astype(np.float32)
    assert len(hold_out(several, 30, 0.2, seed=0)) == 6
    assert len(hold_out(None, 30, 0.2, seed=0)) == 6


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (3, 0.9, 2), (1000, 0.0001, 1)])
def test_both_parts_have_an_example(count, fraction, expected):
    assert len(hold_out(None, count, fraction, seed=0)) == expected


def test_subset_is_in_order_and_holds_every_smaller_one_of_its_seed():
    drawn = [subset(100, size, seed=3) for size in (10, 40)]
    assert [len(rows) for rows in drawn] == [10, 40]
    assert all((np.diff(rows) > 0).all() for rows in drawn)
    assert set(drawn[0]) < set(drawn[1]) < set(range(100))
    assert subset(100, 10, seed=3).tolist() == drawn[0].tolist() != subset(100, 10, seed=4).tolist()
    assert subset(5, 10, seed=0).tolist() == [0, 1, 2, 3, 4]
