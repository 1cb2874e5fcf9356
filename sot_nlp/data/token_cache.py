"""Store arrays in a folder: written in pieces, whole or not at all, read back memory-mapped and verified.

A folder holds one raw file per array (little-endian, C order) and `header.json` with each array's dtype,
shape and checksum. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from sot_nlp.errors import UserError, printable
from sot_nlp.files import sync_folder

FORMAT_VERSION = 2
HEADER = "header.json"
_PIECE = 1 << 24


class DamagedCacheError(Exception):
    """A cache that is not what was written; it can be made again."""


class ArrayWriter:
    """Writes the folder at `path`, as a context manager: it appears with `finish`, or not at all.

    A folder that another process puts there meanwhile stays. Raises UserError where the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path
        self._arrays: dict[str, dict[str, Any]] = {}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> ArrayWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._beside = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name[:8]}."))
        except OSError as error:
            raise self._refused(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            # After a full disk closing fails again; what `finish` put in its place is closed already.
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._beside, ignore_errors=True)

    def append(self, name: str, array: np.ndarray) -> None:
        """Add rows to the array `name`; its dtype and the shape of a row are those of the first call."""
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        entry = self._arrays.setdefault(
            name, {"dtype": array.dtype.str, "shape": [0, *array.shape[1:]], "crc32": 0}
        )
        if (entry["dtype"], entry["shape"][1:]) != (array.dtype.str, list(array.shape[1:])):
            raise ValueError(f"{name}: rows of {array.dtype.str} {array.shape[1:]} to an array of {entry}")
        data = array.tobytes()
        entry["shape"][0] += len(array)
        entry["crc32"] = zlib.crc32(data, entry["crc32"])
        try:
            if name not in self._files:
                self._files[name] = (self._beside / f"{name}.bin").open("wb")
            self._files[name].write(data)
        except OSError as error:
            raise self._refused(error) from None

    def finish(self, facts: dict[str, Any]) -> None:
        """Put the folder in its place, with `facts` (JSON values) in its header."""
        header: dict[str, Any] = {"version": FORMAT_VERSION, "arrays": self._arrays, "facts": facts}
        header["crc32"] = _header_checksum(header)
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            (self._beside / HEADER).write_text(json.dumps(header), encoding="utf-8")
            sync_folder(self._beside)
            self._beside.chmod(0o755)
            self._beside.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            # Another process was faster: the path is made from the content, so its folder serves as well.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise self._refused(error) from None

    def _refused(self, error: OSError) -> UserError:
        return UserError(
            f"the token cache {printable(self.path.parent)} can't be written ({error.strerror or error}); "
            "name another folder with --cache_dir"
        )


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, facts) of the folder that `ArrayWriter` wrote at `path`; the arrays are read-only maps.

    Every byte is verified. Raises FileNotFoundError where there is no folder, else DamagedCacheError.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        checksum = header.pop("crc32")
        if header["version"] != FORMAT_VERSION or checksum != _header_checksum(header):
            raise DamagedCacheError(f"{HEADER} is damaged, or of another version")
        arrays = {name: _read_array(path / f"{name}.bin", entry) for name, entry in header["arrays"].items()}
        return arrays, header["facts"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCacheError(f"{type(error).__name__}: {error}") from None


def _read_array(path: Path, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    if dtype.kind not in "iuf":  # the bytes of an array of objects would be taken for addresses
        raise DamagedCacheError(f"{path.name} claims to hold {dtype}; expected numbers")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.stat().st_size != size:
        raise DamagedCacheError(f"{path.name} has {path.stat().st_size} bytes; expected {size}")
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    if checksum != entry["crc32"]:
        raise DamagedCacheError(f"{path.name} has changed since it was written")
    if size == 0:
        return np.empty(shape, dtype)
    # As a plain array: indexing the memmap class costs its bookkeeping each time.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def _header_checksum(header: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())
