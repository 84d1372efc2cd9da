import pickle
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import DataError
from retrieval.npy_files import open_npy


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"

    class Bad:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    np.save(tmp_path / "objects.npy", np.array([Bad()], object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bad()))
    np.savez(tmp_path / "several.npz", a=np.zeros(4))
    np.save(tmp_path / "whole.npy", np.zeros((9, 4)))
    whole = (tmp_path / "whole.npy").read_bytes()
    for name, data in {
        "empty": b"", "text": b"1 2 3 4\n", "cut": whole[:-8], "header": whole[:40],
        "zip": b"PK\x03\x04 and no more", "shape": whole.replace(b"(9, 4)", b"(9e4)"),
        "brace": whole.replace(b"}", b" "),
        "huge": whole.replace(b"(9, 4), }" + b" " * 16, b"(9999999999999999999, 4), }")[:128],
    }.items():  # fmt: skip
        (tmp_path / f"{name}.npy").write_bytes(data)
    (tmp_path / "folder.npy").mkdir()
    files = sorted([*tmp_path.glob("*.npy"), tmp_path / "several.npz", tmp_path / "none.npy"])
    assert len(files) == 14
    for file in files:
        if file.name != "whole.npy":
            with pytest.raises(DataError, match=rf"{file.name} is not a readable .npy file: "):
                open_npy(file)
    np.testing.assert_array_equal(open_npy(tmp_path / "whole.npy"), np.zeros((9, 4)))
    np.save(tmp_path / "whole.npy", np.zeros((0, 4)))
    assert open_npy(tmp_path / "whole.npy").shape == (0, 4)
    assert not marker.exists()
