"""`PredictionsWriter`: the answers of `lit-avg predict`, a line of JSON each."""

import json
from collections.abc import Sequence
from typing import Any, cast

import lightning as L
from torch import Tensor

from callbacks.run_context import Decodes, datamodule, run_folder
from lit_avg.evaluation.outcomes import Prediction


class PredictionsWriter(L.Callback):
    """Writes `predictions.jsonl`: key, kind, prompt, answer, the data's own answer as `reference`, and what it took.

    That is granularity, visual tokens, probabilities and seconds.

    Each process of a distributed run writes a file of its own, `predictions.1.jsonl` and so on.
    """

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with an empty file."""
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
        data = datamodule(trainer)
        assert isinstance(data, Decodes)
        with self._path.open("a", encoding="utf-8") as file:
            for prediction in cast(Sequence[Prediction], outputs):
                said = {name: data.decode(ids).strip() for name, ids in _texts(prediction).items()}
                file.write(json.dumps(vars(prediction) | said, ensure_ascii=False) + "\n")
                self._written += 1

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where they are."""
        print(f"{self._written} answers are written to {self._path}")


def _texts(prediction: Prediction) -> dict[str, Tensor]:
    return {"prompt": prediction.prompt, "answer": prediction.answer}
