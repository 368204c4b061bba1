"""A stage's class states what is its own; what it inherits from `Stage` is in `--help`, saved configs and refusals."""

from argparse import SUPPRESS
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from lit_avg import stages
from lit_avg.cli import main
from lit_avg.commands.offline import BuildingCLI
from tests.tiny_run import write_stage

OF_STAGE: dict[str, object] = {"init_from": None, "frozen": (), "policies": (), "metrics": ()}
OF_ROUTER = OF_STAGE | {"margins": ()}
OF_RGLF = {"alpha": 0.1, "ranking_weight": 1.0, "objective": None, "feedback": None, "per_sample": False}
IN_TURNS = {"sequential_backward": True, "tokens_at_once": 4096, "levels_per_step": None}

DEFAULTS: dict[str, dict[str, object]] = {
    "Pretrain": OF_STAGE | {"pretrained_parts": None},
    "InstructionTuning": OF_STAGE,
    "MultiGranularityTuning": OF_STAGE | IN_TURNS,
    "RGLF": OF_ROUTER | OF_RGLF,
    "GumbelRouterTuning": OF_ROUTER | {"temperature": 1.0},
}
"""What each stage may be given beside a model and its optimization."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_argument_of_a_stage_has_its_default_and_says_what_it_is(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(stages, name), "stage")
    listed = {action.dest.removeprefix("stage."): action for action in parser._actions if "." in action.dest}  # pyright: ignore[reportPrivateUsage]
    arguments = {name: action for name, action in listed.items() if "." not in name and action.default != SUPPRESS}
    given = {"model", "optimization"}
    assert {argument: it.default for argument, it in arguments.items() if argument not in given} == DEFAULTS[name]
    assert given <= {argument.split(".")[0] for argument in listed}
    assert [argument for argument, it in arguments.items() if "as in `" in str(it.help)] == []
    assert [
        argument for argument, it in arguments.items() if len(str(it.help).split()) < 3 and argument not in given
    ] == []


@pytest.mark.parametrize("stage", ["Pretrain", "MultiGranularityTuning", "RGLF"])
def test_an_argument_that_a_stage_does_not_take_is_refused_with_its_name(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", write_stage(tmp_path, stage, frozn=["llm"])]) == 2
    assert "Option 'frozn' is not accepted" in capsys.readouterr().err
    with pytest.raises(TypeError, match="frozn"):
        getattr(stages, stage)(None, None, frozn=["llm"])


@pytest.mark.parametrize("stage", ["Pretrain", "GumbelRouterTuning"])
def test_a_saved_config_has_every_argument_of_a_stage_and_its_hyperparameters_have_them_too(
    stage: str, tmp_path: Path
) -> None:
    cli = BuildingCLI(["fit", "--config", write_stage(tmp_path, stage)])
    saved: dict[str, Any] = yaml.safe_load(cli.config_text())
    expected = {"model", "optimization", *DEFAULTS[stage]}
    assert set(saved["model"]["init_args"]) == expected
    assert {name for name in cli.stage.hparams if not name.startswith("_")} == expected
