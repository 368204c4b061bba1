"""No verb takes what is not finite for a result: each says so and ends with status 2."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.cli import main
from lit_avg.evaluation.calibration import fit_delta, fit_delta_to_budget
from lit_avg.evaluation.evaluate import answer_questions, try_every_granularity
from lit_avg.feedback.part_files import StoredFeedback
from lit_avg.feedback.store import StoredSplit, open_store
from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.routing.policies import CoarsestWithinPolicy, FixedPolicy, OraclePolicy, Policy, RouterPolicy
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import load_exactly
from tests.drawn import drawn_shards
from tests.stored import config
from tests.tiny_run import write_stage

NOT_FINITE = [math.nan, math.inf, -math.inf]
HUGE = 1e30
"""Finite, and so large that what is computed with it is not."""


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished stage 4 and its config."""
    folder = tmp_path_factory.mktemp("routed")
    assert main(["fit", "--config", write_stage(folder, "MultiGranularityTuning")]) == 0
    stage4 = write_stage(folder, "RGLF", init_from="${run_root}/MultiGranularityTuning")
    assert main(["fit", "--config", stage4]) == 0
    return folder / "runs" / "RGLF", stage4


def with_router(run: Path, value: float) -> Path:
    """The run's checkpoint with its router's weights made so large."""
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for name, tensor in checkpoint["state_dict"].items():
        if "router" in name:
            tensor.fill_(value)
    other = path.with_name("huge.ckpt")
    torch.save(checkpoint, other)
    return other


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_router_whose_scores_are_none_is_not_judged(
    verb: str, routed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, stage4 = routed
    results = {path: path.read_bytes() for path in run.glob("*.*") if "config" not in path.name}
    assert main([verb, "--config", stage4, "--ckpt_path", str(with_router(run, HUGE))]) == 2
    assert "the router's scores are not finite for 4 of 5 questions (000, 001, 002, 003)" in capsys.readouterr().err
    results.pop(run / "predictions.jsonl", None)
    assert results == {path: path.read_bytes() for path in results}


def test_no_margin_is_fitted_to_scores_that_are_none(
    routed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = routed
    huge = with_router(run, HUGE)
    before = huge.read_bytes()
    for aim in (["--budget", "0.5"], ["--max-accuracy-loss", "0.1"]):
        assert main(["calibrate", "--ckpt", str(huge), *aim]) == 2
        assert "the router's scores are not finite" in capsys.readouterr().err
    assert huge.read_bytes() == before


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_weights_that_are_none_are_named(
    verb: str, routed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, stage4 = routed
    assert main([verb, "--config", stage4, "--ckpt_path", str(with_router(run, math.nan))]) == 2
    assert "model.router." in (told := capsys.readouterr().err)
    assert "has numbers that are not finite" in told


@pytest.mark.parametrize("stage", ["RGLF", "GumbelRouterTuning", "InstructionTuning"])
def test_a_learning_rate_beyond_all_bounds_leaves_no_result(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage4 = write_stage(tmp_path, stage, optimization={"lr": 1e30, "warmup_ratio": 0.0})
    assert main(["fit", "--config", stage4]) == 2
    assert "training stopped" in (told := capsys.readouterr().err)
    assert "Lower the learning rate (it was " in told
    run = tmp_path / "runs" / stage
    assert not (run / "result.json").exists()
    if (checkpoint := run / "checkpoints" / "last.ckpt").exists():
        weights: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("policy", [RouterPolicy(), CoarsestWithinPolicy(0.5), OraclePolicy()])
def test_no_policy_chooses_by_numbers_that_are_none(policy: Policy, bad: float, model: AvgLlava, batch: Batch) -> None:
    outcomes = try_every_granularity(model, batch, routed=True)
    outcomes.chosen_by(policy)
    assert outcomes.scores is not None
    (outcomes.feedback if isinstance(policy, OraclePolicy) else outcomes.scores)[2, 1] = bad
    with pytest.raises(UserError, match=r"are not finite for 1 of 5 questions \(002\)"):
        outcomes.chosen_by(policy)
    with pytest.raises(UserError, match=r"are not finite for 1 of 5 questions \(002\)"):
        outcomes.check_finite()


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("fit", [fit_delta, lambda outcomes: fit_delta_to_budget(outcomes, 0.5)])
def test_no_margin_is_fitted_to_one_bad_score(
    fit: Callable[..., float], bad: float, model: AvgLlava, batch: Batch
) -> None:
    outcomes = try_every_granularity(model, batch, routed=True)
    assert outcomes.scores is not None
    outcomes.scores[0, 0] = bad
    with pytest.raises(UserError, match="the router's scores are not finite"):
        fit(outcomes)


@pytest.mark.parametrize("margin", NOT_FINITE)
def test_a_margin_is_a_number(margin: float) -> None:
    with pytest.raises(UserError, match=f"margin of `coarsest within` is {margin}"):
        CoarsestWithinPolicy(margin)
    with pytest.raises(UserError, match=f"margin of `oracle` is {margin}"):
        OraclePolicy(margin)


def test_a_prediction_needs_scores_and_logits_that_are_numbers_whatever_the_policy(
    model: AvgLlava, batch: Batch
) -> None:
    answer_questions(model, batch, FixedPolicy(1), routed=True, max_new_tokens=2)
    with torch.no_grad():
        model.backbone.hf.lm_head.weight[7] = math.nan
    with pytest.raises(UserError, match="the LLM's logits are not finite"):
        answer_questions(model, batch, FixedPolicy(1), routed=False, max_new_tokens=2)
    with torch.no_grad():
        next(model.router.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match="the router's scores are not finite"):
        answer_questions(model, batch, FixedPolicy(1), routed=True, max_new_tokens=2)


def test_a_token_that_cannot_win_is_no_mistake(model: AvgLlava, batch: Batch) -> None:
    expected = model.backbone.generate(list(torch.ones(2, 3, 24)), 4)
    hook = model.backbone.hf.lm_head.register_forward_hook(
        lambda *call: torch.cat([call[-1], torch.full_like(call[-1][..., :1], -math.inf)], dim=-1)
    )
    assert torch.equal(model.backbone.generate(list(torch.ones(2, 3, 24)), 4), expected)
    hook.remove()


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_store_holds_and_gives_finite_feedback_alone(bad: float, tmp_path: Path) -> None:
    def stored(value: float) -> StoredFeedback:
        log_prob = torch.full((2, 2), -1.0)
        log_prob[1, 0] = value
        counts = torch.ones(2, dtype=torch.int32)
        return StoredFeedback(
            ["a", "b"], ["all"] * 2, [""] * 2, log_prob, log_prob > -2, counts, torch.ones(2, 2).int()
        )

    identity = {"granularities": "1 2"}
    store = open_store(tmp_path / "good", identity, {"train": StoredSplit("da7a", 2, 2)})
    store.fill("train", lambda begin, end: stored(-2.0))
    assert store.read("train").log_prob[1, 0] == -2
    store = open_store(tmp_path / "bad", identity, {"train": StoredSplit("da7a", 2, 2)})
    store.fill("train", lambda begin, end: stored(bad))
    with pytest.raises(UserError, match=r"log-probs of the answers are not finite for 1 of 2 questions \(b\)"):
        store.read("train")


def test_no_store_is_made_by_a_model_that_computes_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = drawn_shards(tmp_path, 12)
    assert main(["fit", "--config", config(tmp_path, shards, "MultiGranularityTuning", "stage3")]) == 0
    path = tmp_path / "stage3" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for name, tensor in checkpoint["state_dict"].items():
        if "multi_modal_projector" in name:
            tensor.fill_(HUGE)
    torch.save(checkpoint, path)
    (tmp_path / "stage3" / "result.json").unlink()  # it knows the checkpoint's hash
    stage4 = config(tmp_path, shards, "RGLF", "stage4", init_from=str(tmp_path / "stage3"))
    assert main(["feedback", "--config", stage4, "--out", str(tmp_path / "store"), "--splits", "train"]) == 2
    assert "the model's log-probs of the answers are not finite" in capsys.readouterr().err
    assert not list((tmp_path / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_weights_of_any_folder_are_refused_by_the_name_of_the_tensor(bad: float, tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights["weight"][1, 0] = bad
    with pytest.raises(UserError, match="folder: weight has numbers that are not finite"):
        load_exactly(module, weights, "folder", "its config describes")


def test_a_pretrained_encoder_is_looked_through(model: AvgLlava, tmp_path: Path) -> None:
    encoder = model.backbone.hf.model.vision_tower
    encoder.save_pretrained(tmp_path / "good")
    model.backbone.load_part("vision_encoder", str(tmp_path / "good"))
    next(encoder.parameters()).data.fill_(math.nan)
    encoder.save_pretrained(tmp_path / "bad")
    with pytest.raises(UserError, match=r"pretrained_parts: .*bad: .* has numbers that are not finite"):
        model.backbone.load_part("vision_encoder", str(tmp_path / "bad"))
    model.backbone.hf.save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match=r"whole: .* has numbers that are not finite"):
        Backbone(pretrained=str(tmp_path / "whole"))
