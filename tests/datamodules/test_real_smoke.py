"""The four stages of experiments/real-smoke as they are, on conversations made up here."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_avg import cli
from tests.drawn import drawn_shards

ROOT = Path(__file__).parents[2]


def losses(run: Path) -> list[float]:
    events = EventAccumulator(str(run)).Reload()
    return [event.value for event in events.Scalars("train/loss")]


@pytest.mark.slow
def test_the_loss_falls_in_every_stage_and_no_other_template_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIT_AVG_REAL_SMOKE", str(drawn_shards(tmp_path, samples=30, rounds=2)))
    monkeypatch.chdir(ROOT)
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        config = f"experiments/real-smoke/{stage}.yaml"
        options = ["--run_root", str(tmp_path / "runs"), "--trainer.log_every_n_steps", "1"]
        assert cli.main(["fit", "--config", config, *options]) == 0
        loss = losses(tmp_path / "runs" / stage)
        assert sum(loss[-6:]) < sum(loss[:6]), stage  # an epoch each: all 26 training samples but two
    other = ["--run_root", str(tmp_path / "runs"), "--data.init_args.template", "plain"]
    assert cli.main(["test", "--config", "experiments/real-smoke/stage4.yaml", *other]) == 2
    assert "template: 'vicuna' -> 'plain'" in capsys.readouterr().err
