"""Importing checkpoints from strangers: nothing in them ever runs, and damage is an error."""

from __future__ import annotations

import collections
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from revisage.errors import CheckpointError
from revisage.training.importers import from_checkpoint
from revisage.training.importers.checkpoint_reader import (
    ForeignObject,
    StoredTensor,
    read_checkpoint,
)
from tests.training.lama_checkpoints import (
    same_weights,
    save_legacy,
    save_safetensors,
    small_lama,
    write_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


class Attack:
    """Runs a command when it is unpickled in the usual way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class DeepAttack(Attack):
    """The same through `eval`, and with a state to be set afterwards."""

    def __reduce__(self) -> Any:
        code = f"open({str(self.marker)!r}, 'w').close() or type('Made', (), {{}})()"
        return eval, (code,), {"state": 1}


@pytest.mark.parametrize("attack", [Attack, DeepAttack])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_does_not_run(
    attack: type[Attack], legacy: bool, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    network = small_lama()
    content = {"hyper_parameters": attack(marker), "state_dict": network.state_dict()}
    torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    # It would run if it were loaded in the usual way.
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert marker.exists()
    marker.unlink()

    again = from_checkpoint(tmp_path / "evil.ckpt")
    assert same_weights(again, network)
    assert not marker.exists()
    found = read_checkpoint(tmp_path / "evil.ckpt").content["hyper_parameters"]
    assert isinstance(found, ForeignObject)


def rebuilt_pickle(path: Path, data: bytes) -> Path:
    """A torch zip file whose data.pkl is `data`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", b"\x00" * 16)
    return path


def storage_pickle(
    shape: tuple[int, ...], count: int, stride: tuple[int, ...] = (1,), offset: int = 0
) -> bytes:
    """A text pickle of one float tensor over storage "0", with any description."""

    def numbers(values: tuple[int, ...]) -> str:
        return "(" + "".join(f"I{value}\n" for value in values) + "t"

    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{count}\ntQ"
    arguments = f"({storage}I{offset}\n{numbers(shape)}{numbers(stride)}I00\n(dt"
    return f"ctorch._utils\n_rebuild_tensor_v2\n{arguments}R.".encode()


def test_the_description_of_a_tensor_is_read(tmp_path: Path) -> None:
    """The maker of the hostile ones below, with honest numbers."""
    path = rebuilt_pickle(tmp_path / "honest.pt", storage_pickle((2,), 4, (2,), 1))
    tensor = read_checkpoint(path).content
    assert isinstance(tensor, StoredTensor)
    assert torch.equal(tensor.load(), torch.zeros(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (storage_pickle((10**12,), 4), "larger than its storage"),
        (storage_pickle((4,), 4, offset=2), "larger than its storage"),
        (storage_pickle((2,), 4, stride=(10**6,)), "larger than its storage"),
        (storage_pickle((-4,), 4), "impossible shape"),
        (storage_pickle((4,), 1 << 40), "wrong length"),
        # A memo index of two thousand million would make the C unpickler allocate 32 GB.
        (b"\x80\x02}r\x00\x00\x00\x7f.", "memo"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02}", "damaged|truncated"),
        (b"garbage", "damaged|truncated"),
        (b"\x80\x02]q\x00h\x05.", "damaged|truncated"),
        # BUILD on what the pickle may name: nothing of ours can be changed.
        (b"ctorch\nFloatStorage\n(dS'dtype'\nI1\nsb.", "no tensors"),
        (b"\x80\x02]" + b"(" * 5000 + b"t" * 5000 + b"a.", "no tensors"),
    ],
)
def test_a_hostile_description_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_checkpoint(rebuilt_pickle(tmp_path / "hostile.pt", data))


def test_reading_leaves_our_own_classes_unchanged(tmp_path: Path) -> None:
    data = b"ccollections\nOrderedDict\n(dS'__call__'\nI1\nsb."
    read_checkpoint(rebuilt_pickle(tmp_path / "hostile.pt", data))
    made = collections.OrderedDict([("a", 1)])
    torch.save(made, tmp_path / "good.pt")
    assert read_checkpoint(tmp_path / "good.pt").content == {"a": 1}


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x00" * (1 << 20))
    with pytest.raises(CheckpointError, match="compressed"):
        from_checkpoint(path)


def test_a_program_is_refused(tmp_path: Path) -> None:
    path = rebuilt_pickle(tmp_path / "script.pt", b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "import os")
    with pytest.raises(CheckpointError, match="TorchScript"):
        from_checkpoint(path)


def test_every_kind_of_truncation_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    legacy, safe = tmp_path / "legacy.pt", tmp_path / "file.safetensors"
    save_legacy(small_lama().state_dict(), legacy)
    save_safetensors(small_lama().state_dict(), safe)
    cut = tmp_path / "cut.bin"
    for source in (checkpoint, legacy, safe):
        content = source.read_bytes()
        for share in (0.001, 0.1, 0.5, 0.9, 0.999):
            cut.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(CheckpointError, match=r"cut\.bin"):
                from_checkpoint(cut)


def test_a_flipped_bit_in_the_weights_is_found(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 400] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|truncated"):
        from_checkpoint(checkpoint)


def test_random_bytes_in_a_good_file_never_do_more_than_fail(
    checkpoint: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    with zipfile.ZipFile(checkpoint) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        data = archive.read(name)
    refused = 0
    for _ in range(60):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            changed[place] = rng.integers(0, 256)
        try:
            from_checkpoint(rebuilt_pickle(tmp_path / "fuzz.pt", bytes(changed)))
        except CheckpointError:
            refused += 1
    assert refused == 60  # its storages are missing, so none can be complete
