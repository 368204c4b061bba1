"""Semantics as YAML says them reach the model, its stage and its loss."""

from pathlib import Path

import pytest

from lit_avg import cli
from lit_avg.commands.offline import BuildingCLI
from lit_avg.semantics import Choices, Semantics
from lit_avg.stages import MultiGranularityTuning
from lit_avg.stages.base import Stage
from tests.tiny_run import write_stage, write_yaml


def stage_with(tmp_path: Path, semantics: object) -> str:
    settings = {"model": {"init_args": {"semantics": semantics}}}
    return write_yaml(tmp_path / "overlay.yaml", {"model": {"init_args": settings}})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("release", Semantics("release").resolve()),
        ({"preset": "release", "unpad": "true share"}, Semantics("release", unpad="true share").resolve()),
        ({"margin": 0.5}, Semantics(margin=0.5).resolve()),
        ("paper", Choices()),
    ],
)
def test_yaml_names_a_preset_or_a_preset_and_exceptions(tmp_path: Path, said: object, meant: Choices) -> None:
    config, overlay = write_stage(tmp_path, "MultiGranularityTuning"), stage_with(tmp_path, said)
    stage = BuildingCLI(["fit", "--config", config, "--config", overlay]).model
    assert isinstance(stage, Stage)
    assert stage.make_model().semantics == meant


def test_a_word_that_no_preset_knows_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, overlay = write_stage(tmp_path, "MultiGranularityTuning"), stage_with(tmp_path, {"unpad": "by eye"})
    capsys.readouterr()
    assert cli.main(["fit", "--config", config, "--config", overlay]) == 2
    message = capsys.readouterr().err
    assert "semantics.unpad: expected true share | token grid, but got by eye" in message
    assert len(message.splitlines()) <= 2


def test_a_stage_with_the_releases_semantics_leaves_the_vision_encoder_as_it_was(tmp_path: Path) -> None:
    config, overlay = write_stage(tmp_path, "MultiGranularityTuning"), stage_with(tmp_path, "release")
    stage = BuildingCLI(["fit", "--config", config, "--config", overlay]).model
    assert isinstance(stage, MultiGranularityTuning)
    stage.configure_model()
    assert stage.trained_parts == ("connector", "llm")
    assert not any(parameter.requires_grad for parameter in stage.parameters_of("vision_encoder"))
