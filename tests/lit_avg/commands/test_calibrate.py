import json
from pathlib import Path

import pytest
import torch

from lit_avg.cli import main
from lit_avg.commands.calibrate import store_delta
from lit_avg.evaluation.calibration import fit_delta, fit_delta_to_budget
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny_run import write_stage


def outcomes() -> Outcomes:
    """Four questions at two levels of 1 and 4 tokens; the router is surer of the finer level from one to the next."""
    gaps = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return Outcomes(
        keys=list("abcd"),
        kinds=["all"] * 4,
        granularities=Granularities((1, 4), step=4),
        correct=torch.tensor([[True, True], [True, True], [False, True], [True, True]]),
        feedback=torch.zeros(4, 2),
        scores=torch.stack([-gaps, torch.zeros(4)], dim=1),
        visual_tokens=torch.tensor([[1, 4]] * 4),
        text_tokens=torch.ones(4, dtype=torch.long),
        tiles=torch.ones(4, dtype=torch.long),
    )


def test_a_budget_takes_the_smallest_margin_that_keeps_it() -> None:
    # all fine: 16 of 16 tokens; "a" coarse: 13; "a", "b": 10 (0.625); "a", "b", "c": 7 (0.4375); all: 4 (0.25)
    assert fit_delta_to_budget(outcomes(), 1.0) == 0.0
    assert fit_delta_to_budget(outcomes(), 0.7) == pytest.approx(0.2)
    assert fit_delta_to_budget(outcomes(), 0.25) == pytest.approx(0.4)
    with pytest.raises(UserError, match=r"the coarsest granularity alone takes 0.250 of the finest one's tokens"):
        fit_delta_to_budget(outcomes(), 0.2)


def test_a_loss_of_accuracy_that_is_allowed_takes_the_largest_margin() -> None:
    # coarse at "c" is wrong: without loss the margin stays below 0.3, with a quarter of the answers it takes all
    assert fit_delta(outcomes()) == pytest.approx(0.2)
    assert fit_delta(outcomes(), max_accuracy_loss=0.25) == pytest.approx(0.4)


@pytest.mark.parametrize(("aim", "wrong"), [("--budget", "4"), ("--budget", "0"), ("--max-accuracy-loss", "-1")])
def test_shares_that_are_none_are_refused_before_anything_is_loaded(
    aim: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--ckpt", "nowhere", aim, wrong]) == 2
    assert f"{aim} must be a number" in capsys.readouterr().err


def test_a_margin_is_stored_with_the_checkpoint_and_used_by_the_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, checkpoint = tmp_path / "runs" / "RGLF", tmp_path / "runs" / "RGLF" / "checkpoints" / "last.ckpt"
    assert main(["fit", "--config", write_stage(tmp_path, "MultiGranularityTuning")]) == 0
    stage4 = write_stage(tmp_path, "RGLF", init_from="${run_root}/MultiGranularityTuning")
    assert main(["fit", "--config", stage4]) == 0
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert main(["calibrate", "--ckpt", str(run), "--budget", "0.5"]) == 0
    told = capsys.readouterr().out
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert f"δ = {after['delta'].item():.4f} nats, fitted on 5 validation questions" in told
    assert all(torch.equal(before[name], after[name]) for name in before if name != "delta")
    assert main(["test", "--config", stage4]) == 0
    result = json.loads((run / "result.json").read_text())
    assert "coarsest within/accuracy" in result["metrics"]
    capsys.readouterr()
    assert main(["calibrate", "--ckpt", str(run), "--budget", "0.5"]) == 0  # the same margin, the same test
    assert "test again" not in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text()) == result
    store_delta(checkpoint, after["delta"].item() + 1)
    left = json.loads((run / "result.json").read_text())["metrics"]
    assert set(result["metrics"]) - set(left) == {
        name for name in result["metrics"] if name.startswith("coarsest within/")
    }
    assert main(["calibrate", "--ckpt", str(run), "--budget", "0.5"]) == 0
    assert "test again" not in capsys.readouterr().out  # nothing was tested since
    assert main(["test", "--config", stage4]) == 0
    share = float(next(line for line in told.splitlines() if "coarsest within" in line).split()[-1].rstrip("%"))
    assert share <= 50
    assert main(["calibrate", "--ckpt", str(tmp_path / "runs" / "MultiGranularityTuning"), "--budget", "1"]) == 2
    assert "trains no router" in capsys.readouterr().err
