"""An adapter from stage to stage: fresh in stage 2, trained on, frozen below the router, merged or alone at last."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel, LlavaNextForConditionalGeneration

from lit_avg.cli import main
from lit_avg.training.frozen_parts import EXTERNAL_WEIGHTS_KEY
from lit_avg.training.handover import ADAPTER_KEY, read_checkpoint
from tests.adapter_ranks import RANKS, STEPS, batches, each_strategy, train
from tests.continuation import Life, differences, live
from tests.drawn import drawn_shards
from tests.killing import write_config
from tests.stored import config, model
from tests.tiny_run import write_yaml
from tests.two_ranks import on_ranks

LLM = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512}
LLM |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "eos_token_id": 2}

LORA = {"rank": 2, "alpha": 4.0}

BEFORE = {"Pretrain": None, "InstructionTuning": "Pretrain", "MultiGranularityTuning": "InstructionTuning"}


def with_llm(lora: dict[str, Any] | None) -> dict[str, Any]:
    made = model([1, 2, 4, 8, 16])
    made["init_args"]["backbone"]["init_args"] |= {"llm": dict(LLM), "lora": lora}
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), 12, rounds=2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Stage 1 without an adapter, stages 2 and 3 with one, on a pretrained encoder and LLM."""
    folder = tmp_path_factory.mktemp("chain")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLM)).save_pretrained(folder / "llm")
    encoder = with_llm(None)["init_args"]["backbone"]["init_args"]["vision_encoder"]
    CLIPVisionModel(AutoConfig.for_model(**encoder)).save_pretrained(folder / "encoder")
    parts = {"vision_encoder": str(folder / "encoder"), "llm": str(folder / "llm")}
    for stage, before in BEFORE.items():
        arguments: dict[str, Any] = {"model": with_llm(LORA), "init_from": str(folder / str(before))}
        arguments |= {"optimization": {"lr": 0.01, "adapter_lr": 0.05}}
        if before is None:
            arguments = {"model": with_llm(None), "pretrained_parts": parts}
        assert main(["fit", "--config", config(folder, shards, stage, stage, **arguments)]) == 0
    return folder


def stage4(chain: Path, shards: Path, name: str, lora: dict[str, Any] | None, **more: object) -> str:
    before = str(chain / "MultiGranularityTuning")
    return config(chain, shards, "RGLF", name, model=with_llm(lora), init_from=before, per_sample=True, **more)


def test_a_checkpoint_holds_the_adapter_and_leaves_the_llm_out(chain: Path) -> None:
    path = chain / "MultiGranularityTuning" / "checkpoints" / "last.ckpt"
    checkpoint = read_checkpoint(path)
    names = [name for name in checkpoint["state_dict"] if "language_model" in name or "lm_head" in name]
    assert len(names) == 3 * 7 * 2  # layers, matrices of a layer, A and B
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert set(checkpoint[EXTERNAL_WEIGHTS_KEY]) == {"llm"}
    assert checkpoint[ADAPTER_KEY] == LORA
    groups = {group["name"]: group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert groups == {"vision_encoder": 0.01, "connector": 0.01, "llm_adapter": 0.05}
    # with Adam's two moments of all that is trained it weighs less than the LLM alone
    assert path.stat().st_size < (chain / "llm" / "model.safetensors").stat().st_size / 2
    before = read_checkpoint(chain / "InstructionTuning" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(not torch.equal(before[name], checkpoint["state_dict"][name]) for name in names)  # and it went on


def test_a_router_learns_from_a_store_what_it_learns_from_the_adapted_llm(
    chain: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live_config, store = stage4(chain, shards, "live", LORA), chain / "store"
    stored = stage4(chain, shards, "stored", LORA, feedback=str(store))
    assert main(["feedback", "--config", stored, "--out", str(store)]) == 0
    assert main(["fit", "--config", live_config]) == 0
    assert main(["fit", "--config", stored]) == 0
    assert (chain / "live" / "losses.csv").read_text() == (chain / "stored" / "losses.csv").read_text()
    assert main(["test", "--config", stored]) == 0  # with the whole LLM, known by hash and adapter
    identity = json.loads((store / "manifest.json").read_text())["identity"]
    assert {"weights of the llm", "weights of the llm adapter", "backbone: llm adapter"} <= set(identity)
    checkpoint = read_checkpoint(chain / "stored" / "checkpoints" / "last.ckpt")
    assert set(checkpoint[EXTERNAL_WEIGHTS_KEY]) == {"vision_encoder", "connector", "llm", "llm_adapter"}
    assert not [name for name in checkpoint["state_dict"] if "backbone" in name]
    other = stage4(chain, shards, "other", LORA | {"alpha": 8.0}, feedback=str(store))
    capsys.readouterr()
    assert main(["fit", "--config", other]) == 2
    assert "has an adapter with rank: 2, alpha: 4, but `lora` says rank: 2, alpha: 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (None, "has an adapter of the LLM, but this backbone none; give it `lora: {rank: 2, alpha: 4}`, or export"),
        (LORA | {"rank": 4}, "has an adapter with rank: 2, alpha: 4, but `lora` says rank: 4, alpha: 4 here"),
        (
            LORA | {"targets": ["q_proj"]},
            "and 33 more too many; it was made with another model than this config describes",
        ),
    ],
)
def test_an_adapter_is_not_put_where_it_would_compute_something_else(
    chain: Path, shards: Path, lora: dict[str, Any] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", stage4(chain, shards, "refused", lora)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lora", "frozen", "message"),
    [
        (LORA, ["llm"], "frozen: llm, but it is frozen by its `lora` anyway; leave it out, or name llm_adapter"),
        (LORA, ["vision_encoder", "connector", "llm_adapter"], "trains vision_encoder, connector, llm_adapter alone"),
        (None, ["llm_adapter"], "frozen: llm_adapter, but the backbone has none"),
    ],
)
def test_what_is_frozen_is_said_of_parts_that_are_trained(
    tmp_path: Path, shards: Path, lora: dict[str, Any] | None, frozen: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made = config(tmp_path, shards, "InstructionTuning", "stage2", model=with_llm(lora), frozen=frozen)
    assert main(["describe", "--config", made]) == 2
    assert message in capsys.readouterr().err


def test_describe_tells_of_the_adapter(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = config(tmp_path, shards, "InstructionTuning", "stage2", model=with_llm(LORA | {"targets": ["q_proj"]}))
    assert main(["describe", "--config", made]) == 0
    told = capsys.readouterr().out
    assert "InstructionTuning trains: vision encoder, connector, llm adapter" in told
    assert "the LLM is frozen and has an adapter: rank 2, alpha 4, on q_proj" in told
    rows = {line.split()[0] + " " + line.split()[1]: line.split() for line in told.splitlines() if "llm" in line}
    assert rows["llm adapter"][2] == str(3 * (2 * 64 + 64 * 2))


def test_an_export_is_merged_and_an_adapter_is_one_for_peft(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(chain / "MultiGranularityTuning")
    assert main(["export", "--ckpt", run, "--out", str(chain / "merged")]) == 0
    assert float(capsys.readouterr().out.split("at most ")[1].split()[0]) < 1e-5
    assert main(["export", "--ckpt", run, "--out", str(chain / "alone"), "--adapter"]) == 0
    assert f"the adapter of {chain / 'llm'}, for peft" in capsys.readouterr().out
    assert {path.name for path in (chain / "alone").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(chain / "llm")
    ids = torch.randint(3, 512, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, chain / "alone")(input_ids=ids).logits
        merged = LlavaNextForConditionalGeneration.from_pretrained(chain / "merged")(input_ids=ids).logits[..., :512]
    assert (adapted - plain).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)  # logits reach 10
    assert main(["export", "--ckpt", str(chain / "Pretrain"), "--out", str(chain / "none"), "--adapter"]) == 2
    assert "has no adapter" in capsys.readouterr().err


def test_a_killed_run_goes_on_with_its_adapter_bit_by_bit(tmp_path: Path) -> None:
    made = Path(write_config(tmp_path, drawn_shards(tmp_path, 23), 8))
    described = yaml.safe_load((tmp_path / "model.yaml").read_text())
    described["init_args"]["backbone"]["init_args"]["lora"] = LORA | {"dropout": 0.2}
    write_yaml(tmp_path / "model.yaml", described)
    content = yaml.safe_load(made.read_text())
    content["model"]["class_path"] = "lit_avg.stages.MultiGranularityTuning"
    write_yaml(made, content)
    assert live(tmp_path / "whole", str(made), [], [Life()]) == [0]
    assert live(tmp_path / "killed", str(made), [], [Life("backward", 5), Life()]) == [-signal.SIGKILL, 0]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    assert len((tmp_path / "whole" / "losses.csv").read_text().splitlines()) == 8 + 1


def test_two_ranks_train_an_adapter_as_one_process_does(tmp_path: Path) -> None:
    assert on_ranks(RANKS, tmp_path / "marks", each_strategy, str(tmp_path)) == [0, 0]
    ranks = [json.loads((tmp_path / f"losses{rank}.json").read_text()) for rank in range(RANKS)]
    both = [batch for pair in zip(*(batches(rank) for rank in range(RANKS)), strict=True) for batch in pair]
    alone = torch.tensor(train("auto", str(tmp_path), both, devices=1, accumulate=RANKS)).view(STEPS, RANKS)
    assert alone[0].mean() > 1.05 * alone[-1].mean()
    for strategy in ranks[0]:
        found = torch.tensor([rank[strategy] for rank in ranks]).T
        torch.testing.assert_close(
            found, alone, rtol=1e-5, atol=1e-6, msg=lambda told, name=strategy: f"{name}: {told}"
        )
