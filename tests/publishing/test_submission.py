import json
import zipfile

import pytest

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.publishing.submission import check_table, write_submission, write_task_file
from sot_nlp.tasks.spec import load_task

# The server's files, their sizes, and the predictions that it takes; from the benchmark, not from tasks/.
SERVER = {
    "CoLA.tsv": (1063, {"0", "1"}),
    "SST-2.tsv": (1821, {"0", "1"}),
    "MRPC.tsv": (1725, {"0", "1"}),
    "STS-B.tsv": (1379, None),
    "QQP.tsv": (390965, {"0", "1"}),
    "MNLI-m.tsv": (9796, {"entailment", "neutral", "contradiction"}),
    "MNLI-mm.tsv": (9847, {"entailment", "neutral", "contradiction"}),
    "QNLI.tsv": (5463, {"entailment", "not_entailment"}),
    "RTE.tsv": (3000, {"entailment", "not_entailment"}),
    "WNLI.tsv": (146, {"0", "1"}),
    "AX.tsv": (1104, {"entailment", "neutral", "contradiction"}),
}


def finished_run(folder, task, *, value=0.5, predict=True, status=records.FINISHED):
    """A folder as the runner leaves it, with a made-up prediction for each test example."""
    spec = load_task(task)
    folder.mkdir(parents=True, exist_ok=True)
    best = {"metric": spec.main_metric, "value": value} if spec.validation_splits else None
    records.write(folder, {"format_version": 1, "task": spec.name, "status": status, "best": best})
    for split in spec.test_splits if predict else ():
        rows = range(spec.rows[split])
        if spec.kind == "regression":
            predictions = [i / 200 - 0.5 for i in rows]  # from -0.5 to 6.39
        else:
            predictions = [spec.labels[i % len(spec.labels)] for i in rows]
        write_task_file(folder, spec, split, predictions, rows)
    return folder


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"):
        finished_run(folder / "glue" / task, task)
    return folder


def test_all_runs_give_the_eleven_files_that_the_server_wants(all_runs, tmp_path):
    done = write_submission([all_runs], tmp_path / "glue.zip")
    assert done.missing == ()
    assert "11 of 11 files; complete" in done.report()
    files = read_zip(done.path)
    assert files.keys() == SERVER.keys()
    for name, (count, words) in SERVER.items():
        header, *lines = files[name].splitlines()
        assert header == "index\tprediction"
        indices, predictions = zip(*(line.split("\t") for line in lines), strict=True)
        assert list(indices) == [str(i) for i in range(count)]
        if words is None:
            assert 0 == min(map(float, predictions)) < max(map(float, predictions)) == 5
        else:
            assert set(predictions) == words


def test_label_words_are_those_of_the_files(all_runs):
    assert (all_runs / "glue/cola/CoLA.tsv").read_text().startswith("index\tprediction\n0\t0\n1\t1\n2\t0\n")
    expected = "index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"
    assert (all_runs / "glue/mnli/MNLI-mm.tsv").read_text().startswith(expected)
    expected = [{"index": 0, "prediction": "unacceptable"}, {"index": 1, "prediction": "acceptable"}]
    assert json.loads((all_runs / "glue/cola/test_predictions.json").read_text())[:2] == expected


def test_scores_are_clipped_in_the_submission_only(all_runs):
    rows = json.loads((all_runs / "glue/stsb/test_predictions.json").read_text())
    assert rows[0]["prediction"] == -0.5
    lines = (all_runs / "glue/stsb/STS-B.tsv").read_text().splitlines()
    assert (lines[1], lines[341], lines[-1]) == ("0\t0.000", "340\t1.200", "1378\t5.000")


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    run = finished_run(tmp_path / "run", "rte")
    first = write_submission([run], tmp_path / "a.zip").path.read_bytes()
    assert write_submission([run], tmp_path / "b.zip").path.read_bytes() == first


def test_missing_files_and_left_out_runs_are_named(tmp_path):
    finished_run(tmp_path / "runs/a", "rte")
    finished_run(tmp_path / "runs/b", "wnli", predict=False)
    finished_run(tmp_path / "runs/c", "cola", status=records.RUNNING)
    (finished_run(tmp_path / "runs/d", "mnli") / "test_predictions_mismatched.json").unlink()
    done = write_submission([tmp_path / "runs"], tmp_path / "glue.zip")
    assert done.runs == {"MNLI-m.tsv": tmp_path / "runs/d", "RTE.tsv": tmp_path / "runs/a"}
    assert set(done.missing) == SERVER.keys() - done.runs.keys()
    report = done.report()
    assert "AX.tsv      missing" in report
    assert "runs/b: skipped, no test predictions; run with --do_predict" in report
    assert "runs/c: skipped, the run is not finished" in report
    assert "test_predictions_mismatched.json is missing" in report
    assert "2 of 11 files; the server requires all of them" in report


def test_the_best_of_several_runs_is_taken(tmp_path):
    for seed, value in enumerate((0.61, 0.66, 0.64)):
        finished_run(tmp_path / f"seed{seed}", "rte", value=value)
    done = write_submission([tmp_path, tmp_path / "seed0"], tmp_path / "glue.zip")
    assert done.runs["RTE.tsv"] == tmp_path / "seed1"
    assert "of 3 runs" in done.notes[0]
    assert "0.6600" in done.notes[0]


def test_several_runs_without_a_score_are_not_chosen_among(tmp_path):
    finished_run(tmp_path / "a", "ax")
    finished_run(tmp_path / "b", "ax")
    with pytest.raises(UserError, match=r"ax: several runs.*give one of .*a, .*b"):
        write_submission([tmp_path], tmp_path / "glue.zip")
    assert write_submission([tmp_path / "b"], tmp_path / "glue.zip").runs == {"AX.tsv": tmp_path / "b"}


def test_wrong_predictions_are_named_and_nothing_is_written(tmp_path):
    rte, wnli = finished_run(tmp_path / "rte", "rte"), finished_run(tmp_path / "wnli", "wnli")
    rows = json.loads((rte / "test_predictions.json").read_text())
    rows[7]["prediction"] = "neutral"
    (rte / "test_predictions.json").write_text(json.dumps(rows))
    rows = json.loads((wnli / "test_predictions.json").read_text())
    del rows[3]
    (wnli / "test_predictions.json").write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        write_submission([rte, wnli], tmp_path / "glue.zip")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("index 7: 'neutral' is not one of entailment, not_entailment")
    assert "145 predictions, 146 expected; was --max_predict_samples given?" in lines[1]
    assert "line 5: the index is '4', not 3" in lines[2]
    assert lines[-1].endswith("and 140 more")
    assert not (tmp_path / "glue.zip").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("{}", "list of objects"),
        ('[{"index": 0}]', "`index` and `prediction`"),
        ('[{"index": "0", "prediction": "entailment"}]', "whole number"),
        ('[{"index": 0, "prediction": ["entailment"]}]', "is not one of"),
        ('[{"index": 0, "prediction": "a\\tb\\u001b"}]', r"a\\tb\\x1b"),
        (
            '[{"index": 0, "prediction": "entailment"}, {"index": 0, "prediction": "entailment"}]',
            "2 predictions",
        ),
    ],
)
def test_files_that_are_no_predictions_are_refused(tmp_path, content, message):
    run = finished_run(tmp_path / "run", "rte", predict=False)
    (run / "test_predictions.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_submission([run], tmp_path / "glue.zip")


def test_a_zip_that_can_not_be_written_is_one_line(tmp_path):
    finished_run(tmp_path / "a", "wnli")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"glue\.zip: cannot be written"):
        write_submission([tmp_path / "a"], tmp_path / "file" / "glue.zip")


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        write_submission([tmp_path / "nowhere"], tmp_path / "glue.zip")
    with pytest.raises(UserError, match="no run with test predictions"):
        write_submission([tmp_path], tmp_path / "glue.zip")
    run = finished_run(tmp_path / "run", "wnli")
    with pytest.raises(UserError, match="is a folder; give a file"):
        write_submission([run], tmp_path)


def test_glue_s_file_is_left_out_where_examples_are_missing(tmp_path):
    spec = load_task("wnli")
    paths = write_task_file(tmp_path, spec, "test", ["entailment"] * 10, range(10))
    assert [path.name for path in paths] == ["test_predictions.json"]
    paths = write_task_file(tmp_path, spec, "test", ["entailment"] * 146, range(146))
    assert [path.name for path in paths] == ["test_predictions.json", "WNLI.tsv"]


@pytest.mark.parametrize("score", ["5.001", "-0.1", "nan", "inf", "", "two"])
def test_a_score_out_of_range_is_refused(score):
    spec = load_task("stsb")
    text = "index\tprediction\n" + "".join(f"{i}\t2.5\n" for i in range(1379))
    assert check_table(text, spec, "test") == []
    assert check_table(text.replace("\n", "\r\n"), spec, "test") == []
    expected = [f"line 12: '{score}' is not a number from 0 to 5"]
    assert check_table(text.replace("\n10\t2.5", f"\n10\t{score}"), spec, "test") == expected


def test_a_wrong_header_and_a_word_that_is_no_label_are_named():
    good = "index\tprediction\n" + "".join(f"{i}\t{i % 2}\n" for i in range(146))
    problems = check_table(good.replace("\n5\t1", "\n5\tentailment"), load_task("wnli"), "test")
    assert problems == ["line 7: 'entailment' is not one of 0, 1"]
    assert check_table("id\tlabel\n0\tneutral\n", load_task("wnli"), "test")[0] == (
        r"line 1: the header is 'id\tlabel', not 'index\tprediction'"
    )
