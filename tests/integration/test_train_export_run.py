"""The whole path once, with toys: train in PyTorch, export to ONNX, run through an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from revisage.cli import main
from revisage.engines import open_engine
from revisage.export import export_bundle
from revisage.manifest import RecipeOrigin
from revisage.training.importers import from_state_dict, read_network, save_imported
from revisage.training.loop import Turn, fit
from revisage.training.models.lama import LamaGenerator, composite
from revisage.training.recipe import Run
from tests.export.toy_network import ToyFiller, toy_fields, toy_references

Batch = Mapping[str, torch.Tensor]


class ToyTask:
    """Fill squares in smooth pictures."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = ToyFiller()
        self.networks: dict[str, torch.nn.Module] = {"filler": self.network}
        self.product, self.averaged = "filler", ("filler",)
        self.turns = (Turn("filler", ("filler",), self.loss),)
        self.watch = "filler/l1"
        self.notes: dict[str, str] = {}

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        base = rng.random((size, 3, 1, 1), dtype=np.float32)
        image = np.broadcast_to(base, (size, 3, 32, 32)).copy()
        mask = np.zeros((size, 1, 32, 32), np.float32)
        mask[:, :, 8:16, 8:16] = 1
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask)}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        filled = self.network(batch["image"], batch["mask"])
        loss = (filled - batch["image"]).abs().mean()
        return loss, {"l1": loss.item()}

    def validate(
        self, networks: Mapping[str, torch.nn.Module], out: Path, step: int
    ) -> dict[str, float]:
        batch = self.sample(np.random.default_rng(1), 8)
        filled = networks["filler"](batch["image"], batch["mask"])
        return {"l1": float((filled - batch["image"]).abs().mean())}

    def pictures(
        self, networks: Mapping[str, torch.nn.Module]
    ) -> Mapping[str, npt.NDArray[np.uint8]]:
        return {}


def run(steps: int) -> Run:
    return Run(
        task="toy",
        steps=steps,
        batch=4,
        learning_rate=3e-2,
        warmup_steps=1,
        ema_decay=0.5,
        threads=1,
        save_every=10,
        validate_every=1000,
        log_every=10,
    )


def test_train_export_run(tmp_path: Path) -> None:
    task = ToyTask()
    with torch.no_grad():
        before = task.validate(task.networks, tmp_path, 0)["l1"]
    after = fit(task, run(40), tmp_path / "run")["l1"]
    assert after < 0.7 * before  # it learned something, so the weights are not the first ones

    weights = tmp_path / "run" / "weights.safetensors"
    network = ToyFiller().eval()
    network.load_state_dict(load_file(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    fields = toy_fields(weights_digest=digest, recipe=RecipeOrigin("toy"))
    bundle = export_bundle(network, fields, toy_references(2), tmp_path / "bundles")
    assert bundle.manifest.weights_digest == digest

    batch = task.sample(np.random.default_rng(2), 3)
    with torch.inference_mode():
        true = network(batch["image"], batch["mask"]).numpy()
    inputs = {name: tensor.numpy() for name, tensor in batch.items()}
    with open_engine(bundle, "cpu", threads=2) as engine:
        found = engine.infer(inputs)["filled"]
    assert np.abs(found - true).max() < 1e-5
    assert np.abs(found - inputs["image"]).mean() < 0.8 * before


def test_a_published_checkpoint_becomes_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    """Import, export and verify by the commands, then fill through the engine."""
    torch.manual_seed(1)
    published = LamaGenerator(ngf=4, n_downsampling=3, n_blocks=1).eval()
    for module in published.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
    state = {f"generator.{key}": value for key, value in published.state_dict().items()}
    checkpoint, weights = tmp_path / "best.ckpt", tmp_path / "lama.safetensors"
    torch.save({"state_dict": state, "epoch": 1}, checkpoint)

    assert main(["import", str(checkpoint), "-o", str(weights)]) == 0
    assert main(["export", "lama", "--weights", str(weights), "-o", str(tmp_path / "b")]) == 0
    assert "certified" in capsys.readouterr().out
    assert main(["models", "verify", str(tmp_path / "b")]) == 0
    assert "lama: digests match, certified output on onnxruntime-cpu" in capsys.readouterr().out

    image = rng.random((2, 3, 40, 64), dtype=np.float32)
    mask = (rng.random((2, 1, 40, 64)) > 0.8).astype(np.float32)
    with torch.inference_mode():
        true, _ = composite(published, torch.from_numpy(image), torch.from_numpy(mask))
    with open_engine(tmp_path / "b" / "lama", "cpu") as engine:
        found = engine.infer({"image": image, "mask": mask})["filled"]
    assert np.abs(found - true.numpy()).max() < 1e-4

    # A damaged bundle is found by the same command.
    model = tmp_path / "b" / "lama" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-100] ^= 1
    model.write_bytes(content)
    assert main(["models", "verify", str(tmp_path / "b")]) == 1
    assert "lama: FAILED" in capsys.readouterr().out


def test_weights_that_were_not_imported_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = read_network_of(LamaGenerator(ngf=4, n_blocks=0), tmp_path)
    assert main(["export", "unetpp", "--weights", str(imported), "-o", str(tmp_path / "b")]) == 2
    assert "not imported as unetpp" in capsys.readouterr().err
    assert main(["export", "lama", "--weights", "none.safetensors", "-o", str(tmp_path)]) == 2
    assert "revisage import" in capsys.readouterr().err


def read_network_of(network: LamaGenerator, folder: Path) -> Path:
    torch.save(network.state_dict(), folder / "state.pt")
    assert isinstance(from_state_dict(network.state_dict()), LamaGenerator)
    return save_imported(read_network(folder / "state.pt"), folder / "lama.safetensors")


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fit(ToyTask(), run(10), tmp_path)
    first = load_file(tmp_path / "weights.safetensors")
    fit(ToyTask(), run(20), tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 20
    second = load_file(tmp_path / "weights.safetensors")
    assert any(not torch.equal(first[key], second[key]) for key in first)
