"""Small GLUE data for whole runs, and the command of such a run."""

from pathlib import Path

import pytest

from tests.support import tiny


@pytest.fixture(scope="session")
def glue(tmp_path_factory) -> Path:
    """GLUE's layout of CoLA, RTE, STS-B and MNLI, small, with invented words; labels follow the words."""
    folder = tmp_path_factory.mktemp("glue")
    texts = tiny.sentences(120, seed=1, low=2, high=9)

    def write(path, lines):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    rows = [f"x\t{int('wug' in text or 'dax' in text)}\t\t{text}" for text in texts]
    write("CoLA/train.tsv", rows[:80])
    write("CoLA/dev.tsv", rows[80:])
    write("CoLA/test.tsv", ["index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(texts[:13]))])
    columns = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
    scored = [
        f"{i}\tg\tf\ty\t0\ts\ts\t{text}\t{texts[-i]}\t{len(text.split()) % 6}" for i, text in enumerate(texts)
    ]
    write("STS-B/train.tsv", [columns.replace(" ", "\t"), *scored[:80]])
    write("STS-B/dev.tsv", [columns.replace(" ", "\t"), *scored[80:]])
    return folder


def command(glue, backbone, out, *flags, task="cola"):
    words = f"train --task {task} --data_dir {glue} --model_name_or_path {backbone} --output_dir {out}"
    quick = "--num_train_epochs 2 --learning_rate 1e-3 --disable_tqdm --cpu --mixed_precision no"
    return [*words.split(), *quick.split(), "--cache_dir", str(glue / "cache"), *flags]
