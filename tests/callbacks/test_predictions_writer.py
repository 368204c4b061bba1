import json
from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.tiny_run import write_stage


def test_every_question_gets_an_answer_at_the_granularity_chosen_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage4 = write_stage(tmp_path, "RGLF")
    for _ in range(2):  # the second time in place of the first
        assert main(["predict", "--config", stage4, "--resume", "none"]) == 0
    lines = (tmp_path / "runs" / "RGLF" / "predictions.jsonl").read_text().splitlines()
    where = tmp_path / "runs" / "RGLF" / "predictions.jsonl"
    assert capsys.readouterr().out.count(f"5 answers are written to {where}\n") == 2
    predictions = {prediction["key"]: prediction for prediction in map(json.loads, lines)}
    assert list(predictions) == ["000", "001", "002", "003", "004"]
    for key in ("000", "001", "002", "003"):
        probabilities = predictions[key]["probabilities"]
        assert sum(probabilities) == pytest.approx(1)
        assert predictions[key]["granularity"] == (1, 2, 4, 8, 16)[probabilities.index(max(probabilities))]
        assert all(word.startswith("w") for word in predictions[key]["answer"].split())
        assert len(predictions[key]["prompt"].split()) == {"000": 4, "001": 3, "002": 6, "003": 5}[key]
        assert predictions[key]["seconds"] > 0
        assert predictions[key]["reference"] == "?"  # what these made-up batches call every answer
    assert predictions["004"]["visual_tokens"] == 0
