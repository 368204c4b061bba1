import pytest

from lit_avg.training.handover import check_same_run
from lit_avg.utils.errors import UserError

RUN = {"_class_path": "lit_avg.stages.RGLF", "optimization": {"lr": 0.1, "betas": [0.9, 0.98]}, "alpha": 0.1}


def test_the_same_run_may_continue() -> None:
    check_same_run(RUN, {**RUN, "_instantiator": "whoever made it"})


def test_every_other_hyperparameter_is_named_with_both_values() -> None:
    changed = {**RUN, "optimization": {"lr": 0.2, "betas": [0.9, 0.98]}, "alpha": 0.5}
    with pytest.raises(UserError, match=r"alpha: 0.1 -> 0.5, optimization.lr: 0.1 -> 0.2"):
        check_same_run(RUN, changed)


def test_another_stage_is_pointed_to_init_from() -> None:
    with pytest.raises(UserError, match=r"belongs to lit_avg.stages.RGLF, but the config runs .*init_from"):
        check_same_run(RUN, {**RUN, "_class_path": "lit_avg.stages.Pretrain"})


def test_a_run_goes_on_with_further_policies_and_metrics_to_be_tested_with() -> None:
    check_same_run(RUN, {**RUN, "policies": [{"class_path": "mine.Always"}], "metrics": [{"class_path": "mine.Speed"}]})
