"""Real trainings on a real SLURM of two nodes: told to make room in the midst of it, and with states shared by ZeRO."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from lit_avg import cli
from tests.drawn import drawn_shards
from tests.lit_avg.studies.slurm import NODES, Slurm, missing
from tests.stored import config
from tests.tiny_run import write_stage, write_yaml
from tests.two_ranks import losses_of_steps

ROOT = str(Path(__file__).parents[4])


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    monkeypatch.setenv("PYTHONPATH", ROOT)  # the jobs' python must find the tests' data
    (tmp_path / "slurm").mkdir()
    cluster = Slurm(tmp_path / "slurm")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.slow
def test_two_nodes_train_one_run_that_is_requeued_without_a_step_lost_or_repeated(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = write_stage(tmp_path, "MultiGranularityTuning")
    told = {
        "class_path": "tests.tiny_run.ToldToMakeRoom",
        "init_args": {"step": 1, "told": str(tmp_path / "told")},
    }
    ddp = {"num_nodes": len(NODES), "devices": 1, "strategy": "ddp_find_unused_parameters_true", "callbacks+": told}
    study = {
        "out": str(tmp_path / "out"),
        "seeds": [0],
        "slurm": {"nodes": len(NODES), "tasks": 1, "time": 30},
        "runs": {"stage3": {"configs": [stage, write_yaml(tmp_path / "ddp.yaml", {"trainer": ddp})], "test": True}},
        "rows": {"finest": {"run": "stage3", "policy": "fixed 16"}},
        "columns": ["accuracy"],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    status = cli.main(["sweep", str(path), "--launcher", "slurm", "--poll", "1"])
    run = tmp_path / "out" / "seed-0" / "stage3"
    assert status == 0, "".join([*capsys.readouterr(), *(log.read_text() for log in (tmp_path / "out").rglob("*.out"))])
    for rank in range(len(NODES)):  # both ended step 1 and went on with 2, though only the first was told
        assert (run / f"steps-{rank}.txt").read_text().split() == ["0", "1", "2"], rank
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert json.loads((run / "result.json").read_text())["steps"] == 3
    assert list((tmp_path / "out" / "slurm").glob("started-*-1.json"))
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.slow
def test_two_nodes_that_share_the_optimiser_by_zero_have_the_losses_of_one(
    slurm: Slurm, deepspeed_operators: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = config(tmp_path, drawn_shards(tmp_path, 20, rounds=2), "MultiGranularityTuning", "stage3")

    def overlay(name: str, batch_size: int, **trainer: object) -> str:
        told = {"class_path": "tests.two_ranks.Losses", "init_args": {"folder": str(tmp_path / f"losses-{name}")}}
        content = {"trainer": {"callbacks+": told, **trainer}, "data": {"init_args": {"batch_size": batch_size}}}
        return write_yaml(tmp_path / f"{name}.yaml", content)

    zero = {"class_path": "tests.cpu_strategies.DeepSpeedOnCpu", "init_args": {"stage": 2}}
    study = {
        "out": str(tmp_path / "out"),
        "seeds": [0],
        "slurm": {"nodes": len(NODES), "tasks": 1, "time": 30},
        "runs": {
            "stage3": {
                "configs": [stage, overlay("two", 2, num_nodes=len(NODES), devices=1, strategy=zero)],
                "test": True,
            }
        },
        "rows": {"finest": {"run": "stage3", "policy": "fixed 16"}},
        "columns": ["accuracy"],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    status = cli.main(["sweep", str(path), "--launcher", "slurm", "--poll", "1"])
    assert status == 0, "".join([*capsys.readouterr(), *(log.read_text() for log in (tmp_path / "out").rglob("*.out"))])
    assert cli.main(["fit", "--config", stage, "--config", overlay("one", 4)]) == 0
    assert [path.name for path in sorted((tmp_path / "losses-two").iterdir())] == ["rank0", "rank1"]
    one, two = (losses_of_steps(tmp_path / f"losses-{name}") for name in ("one", "two"))
    assert len(one) == 5
    assert two == pytest.approx(one, rel=1e-5)
