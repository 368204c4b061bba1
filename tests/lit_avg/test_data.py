"""What a data module cannot say is done without, or missed in one line; any that gives batches trains."""

from collections.abc import Iterable
from pathlib import Path

import lightning as L
import pytest
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ShardsDataModule
from lit_avg.batch import Batch
from lit_avg.cli import main
from lit_avg.data import ShardsData
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny_run import TinyData, write_stage, write_yaml


class PlainData(L.LightningDataModule):
    """Batches, and nothing said of them."""

    def train_dataloader(self) -> Iterable[Batch]:
        return TinyData().train_dataloader()

    def val_dataloader(self) -> DataLoader[Batch]:
        return TinyData().val_dataloader()

    def test_dataloader(self) -> DataLoader[Batch]:
        return TinyData().val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        return TinyData().val_dataloader()


class DataWithText(ShardsData):
    """What must be said, and no more."""

    def decode(self, ids: Tensor) -> str:
        return ""


class DataWithoutText(ShardsData):
    """Less than that."""


def on(data: type[L.LightningDataModule], folder: Path) -> list[str]:
    overlay = write_yaml(folder / "data.yaml", {"data": {"class_path": f"{__name__}.{data.__name__}"}})
    return ["--config", write_stage(folder, "RGLF"), "--config", overlay]


def test_any_data_module_that_gives_batches_is_trained_and_tested_on(tmp_path: Path) -> None:
    config = on(PlainData, tmp_path)
    assert main(["fit", *config]) == 0
    assert main(["test", *config]) == 0
    assert (tmp_path / "runs" / "RGLF" / "outcomes.csv").is_file()


def test_predictions_need_data_that_can_say_what_token_ids_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *on(PlainData, tmp_path), "--resume", "none"]) == 2
    told = capsys.readouterr().err
    assert "PlainData cannot turn token ids into text" in told
    assert "derive it from lit_avg.data.ShardsData and give it `decode`" in told


def test_a_data_module_of_shards_that_forgets_decode_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *on(DataWithoutText, tmp_path)]) == 2
    assert "data: tests.lit_avg.test_data.DataWithoutText does not define decode (" in capsys.readouterr().err


def test_what_is_not_said_is_not_known_and_feedback_and_export_are_refused() -> None:
    data, layout = DataWithText(), VisualLayout(Granularities((4, 16), step=4))
    assert (data.end_token, data.longest_sequence(layout), data.manifest_hash, data.question_kinds) == (None,) * 4
    assert (data.identities(), data.data_digest("train")) == ({}, None)
    for ask in (lambda: data.encoding_settings, lambda: data.sample_count("train")):
        with pytest.raises(UserError, match="DataWithText cannot say which samples it has; a feedback store needs"):
            ask()
    with pytest.raises(UserError, match="DataWithText has no processor for the model; export a run on shards"):
        data.processor(8, "default")


def test_data_in_shards_says_all_of_it() -> None:
    said = {name for base in ShardsDataModule.__mro__[: -len(ShardsData.__mro__)] for name in vars(base)}
    asked = {name for name in vars(ShardsData) if not name.startswith("_")}
    assert {"decode", "denormalise", "processor", "sequential_batches"} <= asked
    assert asked - said == {"question_kinds"}  # `LLaVAShards` and `Jersey` find them out each in its own way
