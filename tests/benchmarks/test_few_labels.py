"""The table beside SetFit, made by hand, against the draws that it is of."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = {
    "movie reviews": "movies",
    "product reviews": "products",
    "tweets": "tweets",
    "where a sentence is from": "sources",
}


def test_the_table_beside_setfit_is_of_its_file():
    draws = defaultdict(list)
    for row in json.loads((FOLDER / "few_labels_setfit.json").read_text())["results"]:
        draws[row["count"], row["task"], row["side"]].append((row["draw"], row["score"], row["cpu_seconds"]))

    def mean(count, task, side):
        common = {draw for draw, *_ in draws[count, task, "setfit"]}
        found = [
            (100 * score, seconds) for draw, score, seconds in draws[count, task, side] if draw in common
        ]
        assert len(found) == len(common)
        return np.mean(found, axis=0)

    seconds_of = r"([\d.]+)\** \((\d+) s\) \|"
    pattern = (
        r"\| ([\w ]+|\*\*mean[\w ]+\*\*) \| (\d+)(?:, (\d))? \| ([\d.]+) \| \**"
        + seconds_of
        + " "
        + seconds_of
    )
    rows = re.findall(pattern, (FOLDER / "README.md").read_text(encoding="utf-8"))
    of_count = defaultdict(list)
    for name, count, drawn, *shown in rows:
        sides = ("logistic", "linear_probe" if int(count) < 16 else "probe_then_tune", "setfit")
        if task := NAMES.get(name):
            assert len(draws[int(count), task, "setfit"]) == int(drawn)
            of_count[count].append([mean(int(count), task, side) for side in sides])
            measured = of_count[count][-1]
        else:
            measured = np.mean(of_count[count], axis=0)
        (logistic, _), (ours, seconds), (setfit, setfit_seconds) = measured
        for number, text in zip((logistic, ours, seconds, setfit, setfit_seconds), shown, strict=True):
            np.testing.assert_allclose(number, float(text), atol=0.051 if "." in text else 0.51)
    assert len(rows) == 14
