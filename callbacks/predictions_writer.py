"""`PredictionsWriter`: the answers of `lit-avg predict`, a line of JSON each."""

import json
from collections.abc import Sequence
from typing import Any, cast

import lightning as L
from torch import Tensor

from callbacks.run_context import run_folder, shards_data
from lit_avg.data import ShardsData
from lit_avg.evaluation.outcomes import Prediction
from lit_avg.utils.errors import UserError


class PredictionsWriter(L.Callback):
    """Writes `predictions.jsonl`: key, kind, prompt, answer, the data's own answer as `reference`, and what it took.

    That is granularity, visual tokens, probabilities and seconds.

    Each process of a distributed run writes a file of its own, `predictions.1.jsonl` and so on.
    """

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with an empty file.

        Raises:
            UserError: the data cannot say what its token ids mean.
        """
        self._data = _data_with_text(trainer)
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        self._path = run_folder(trainer) / f"predictions{rank}.jsonl"
        self._path.write_text("", encoding="utf-8")
        self._written = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch's answers."""
        with self._path.open("a", encoding="utf-8") as file:
            for prediction in cast(Sequence[Prediction], outputs):
                texts = {name: self._data.decode(ids).strip() for name, ids in _ids(prediction).items()}
                file.write(json.dumps(vars(prediction) | texts, ensure_ascii=False) + "\n")
                self._written += 1

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where they are."""
        print(f"{self._written} answers are written to {self._path}")


def _data_with_text(trainer: L.Trainer) -> ShardsData:
    if (data := shards_data(trainer)) is None:
        name = type(trainer.datamodule).__name__  # pyright: ignore[reportAttributeAccessIssue]  set in a connector
        raise UserError(
            f"{name} cannot turn token ids into text, so there are no answers to write down; derive it from "
            "lit_avg.data.ShardsData and give it `decode`"
        )
    return data


def _ids(prediction: Prediction) -> dict[str, Tensor]:
    return {"prompt": prediction.prompt, "answer": prediction.answer}
