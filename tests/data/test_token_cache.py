import json
import sys

import numpy as np
import pytest

from sot_nlp.data.token_cache import HEADER, ArrayWriter, DamagedCacheError, read_arrays
from sot_nlp.errors import UserError


def write(path):
    with ArrayWriter(path) as writer:
        writer.append("ids", np.array([1, 2, 3], dtype=np.int32))
        writer.append("ids", np.array([4], dtype=np.int32))
        writer.append("pairs", np.ones((2, 3), dtype=np.float32))
        writer.append("none", np.zeros(0, dtype=np.uint8))
        writer.finish({"lines": [[3, "broken"]]})


def test_arrays_come_back_mapped_with_their_facts(tmp_path):
    write(tmp_path / "c")
    arrays, facts = read_arrays(tmp_path / "c")
    assert arrays["ids"].tolist() == [1, 2, 3, 4]
    assert arrays["ids"].dtype == np.int32
    assert arrays["pairs"].shape == (2, 3)
    assert arrays["none"].shape == (0,)
    assert facts == {"lines": [[3, "broken"]]}
    assert isinstance(arrays["ids"].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 9
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_nothing_appears_before_it_is_whole(tmp_path):
    def stop():
        with ArrayWriter(tmp_path / "c") as writer:
            writer.append("ids", np.arange(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "c")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite_header(path, change):
    header = json.loads((path / HEADER).read_text())
    change(header)
    (path / HEADER).write_text(json.dumps(header))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path / "ids.bin"),
        lambda path: flip(path / HEADER),
        lambda path: (path / "ids.bin").write_bytes((path / "ids.bin").read_bytes()[:-1]),
        lambda path: (path / "ids.bin").unlink(),
        lambda path: (path / HEADER).unlink(),
        lambda path: (path / HEADER).write_text("[]"),
        lambda path: rewrite_header(path, lambda header: header["arrays"]["ids"].update(shape=[2, 2])),
        lambda path: rewrite_header(path, lambda header: header.update(version=0)),
    ],
)
def test_any_damage_is_found(tmp_path, damage):
    write(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(DamagedCacheError):
        read_arrays(tmp_path / "c")


def test_folder_of_another_process_that_was_faster_stays(tmp_path):
    with ArrayWriter(tmp_path / "c") as slow:
        slow.append("ids", np.arange(5))
        write(tmp_path / "c")
        slow.finish({})
    assert read_arrays(tmp_path / "c")[0]["ids"].tolist() == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_rows_of_another_shape_or_type_are_refused(tmp_path):
    with ArrayWriter(tmp_path / "c") as writer:
        writer.append("ids", np.zeros(3, dtype=np.int32))
        with pytest.raises(ValueError, match="ids: rows of <i8"):
            writer.append("ids", np.zeros(3, dtype=np.int64))


@pytest.mark.skipif(sys.platform != "linux", reason="uses a quota of Linux")
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(UserError, match=r"can't be written \(File too large\).*--cache_dir"):
            write(tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_folder_that_can_not_be_made_is_the_users_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"can't be written .*--cache_dir"),
        ArrayWriter(tmp_path / "file" / "c"),
    ):
        pass
