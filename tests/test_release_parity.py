"""With `semantics: release` our code gives what the authors' code gave, down to gradients.

pytest tests/test_release_parity.py -s --golden DIR        another case than those under tests/data/golden
"""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from lit_avg.routing.losses import release_ranking_loss
from tests.close import AFTER_NORM, SHARE, assert_close, gradient_share, share
from tests.golden import GoldenCase, stage3


def kind(name: str) -> str:
    """`out.packed_36_image_0.values` to `packed_N_image_N.values`; gradients of one stage are one kind."""
    return re.sub(r"(grad)\..*", r"\1", re.sub(r"\d+", "N", name.removeprefix("out.")))


def difference(name: str, ours: Tensor, theirs: Tensor, largest: float) -> float:
    """The largest, in units of what is allowed; `largest` is that of all gradients of the same stage."""
    if ".grad." in name:
        return gradient_share(ours, theirs, largest)
    return share(ours, theirs) / (AFTER_NORM if "router_logits" in name and "prenorm" not in name else SHARE)


def stage_of(name: str) -> str:
    """`out.stage4.grad.model.router` to `out.stage4`."""
    return ".".join(name.split(".")[:2])


@pytest.mark.slow
def test_every_stored_result_of_the_authors_is_reproduced(golden_case: Path, tmp_path: Path) -> None:
    case = GoldenCase(golden_case, tmp_path / "checkpoint")
    stored = {name: tensor for name, tensor in case.stored.items() if name.startswith("out.")}
    ours = case.results()
    assert sorted(set(stored) - set(ours)) == [], "stored results that nobody checks"
    assert stored, "the case stores no results"
    gradients = dict[str, float]()
    for name, theirs in stored.items():
        if ".grad." in name:
            gradients[stage_of(name)] = max(float(theirs.abs().max()), gradients.get(stage_of(name), 0.0))
    differences = {
        name: difference(name, ours[name].detach(), theirs, gradients.get(stage_of(name), 0.0))
        for name, theirs in stored.items()
    }
    largest = dict[str, float]()
    for name, value in differences.items():
        largest[kind(name)] = max(value, largest.get(kind(name), 0.0))
    print(f"\n{golden_case.name}: largest differences by kind, in units of what is allowed")
    for name, value in largest.items():
        print(f"  {value:.3f}  {name}")
    assert {name: value for name, value in differences.items() if value > 1} == {}


def test_the_release_never_trains_the_vision_encoder(golden_case: Path, tmp_path: Path) -> None:
    case = GoldenCase(golden_case, tmp_path / "checkpoint")
    with_gradient = [name for name in stage3(case) if name.startswith("out.stage3.grad.model.vision_tower")]
    assert len(with_gradient) == case.about["vision_calls"]["vision_params_with_grad_in_stage3"] == 0


def test_the_ranking_loss_of_the_release_and_its_gradient_are_reproduced(golden_losses: Path) -> None:
    stored = load_file(golden_losses / "rank_loss.safetensors")
    cases = sorted({name.split(".")[0] for name in stored})
    assert {name.split(".")[1] for name in stored} == {"logits", "sorted_loss", "margin", "loss", "grad_logits"}
    largest = 0.0
    for case in cases:
        logits = stored[f"{case}.logits"].clone().requires_grad_()
        margin = stored[f"{case}.margin"].item()
        loss = release_ranking_loss(logits.log_softmax(dim=1), -stored[f"{case}.sorted_loss"], margin)
        loss.backward()
        assert logits.grad is not None
        assert_close(loss, stored[f"{case}.loss"])
        assert_close(logits.grad, stored[f"{case}.grad_logits"])
        largest = max(largest, share(logits.grad, stored[f"{case}.grad_logits"]))
    print(f"\n{golden_losses.name}: {len(cases)} losses, gradients differ by {largest:.1e} of their largest entry")
