"""What `lit-avg export` writes is what was trained: for us bit for bit, for transformers without us to rounding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lit_avg.cli import main
from lit_avg.commands.export import PROMPT, fixed_image, log_probs_of_transformers, own_log_probs
from lit_avg.llava_next.generation import Generation
from lit_avg.model import AvgLlava
from lit_avg.routing.policies import FixedPolicy, OraclePolicy
from lit_avg.utils.errors import UserError

ROOT = Path(__file__).parents[3]

ALONE = """
import json, sys
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

folder, prompt = sys.argv[1:]
model = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
text = processor.apply_chat_template(
    [{"role": "user", "content": "<image>\\n" + prompt}], add_generation_prompt=True, tokenize=False
)
image = Image.open(folder + "/../image.png")
inputs = processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
with torch.no_grad():
    log_probs = model(**inputs).logits[0].log_softmax(dim=1)
ours = load_file(folder + "/../ours.safetensors")["log_probs"]
ids = inputs["input_ids"][0][-len(ours):]
theirs = log_probs[torch.arange(len(log_probs) - len(ours) - 1, len(log_probs) - 1), ids]
known = [name for name in sys.modules if name.split(".")[0] in ("lit_avg", "datamodules", "callbacks")]
print(json.dumps({"difference": float((ours - theirs).abs().max()), "tokens": len(ours), "ours": known}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 4 of a random model on made-up conversations."""
    folder = tmp_path_factory.mktemp("export")
    for number in range(4):
        Image.new("RGB", (40 + 20 * number, 120), (60 * number, 0, 99)).save(folder / f"{number}.png")
    turns = [{"from": "human", "value": "<image>\nHow wide?"}, {"from": "gpt", "value": "Very."}]
    records = [{"id": str(number), "image": f"{number}.png", "conversations": turns} for number in range(4)]
    (folder / "records.json").write_text(json.dumps(records))
    options = ["--annotations", str(folder / "records.json"), "--images", str(folder)]
    assert main(["shard", *options, "--out", str(folder / "shards")]) == 0
    stages = {"stage2": "stage1", "stage3": "stage2", "stage4": "stage3"}
    for stage in ("stage1", *stages):
        config = ["--config", str(ROOT / "experiments" / "real-smoke" / f"{stage}.yaml")]
        few = ["--trainer.max_steps", "1", "--data.init_args.val_share", "0", "--data.init_args.batch_size", "2"]
        data = ["--data.init_args.train", str(folder / "shards"), "--trainer.limit_val_batches", "0"]
        assert main(["fit", *config, "--run_root", str(folder), *few, *data]) == 0
    return folder / "stage4"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "exported"
    assert main(["export", "--ckpt", str(run), "--out", str(out)]) == 0
    return out


def test_transformers_alone_computes_the_same(exported: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    ours = own_log_probs(model)
    assert len(ours) > len(PROMPT.split())
    fixed_image().save(exported.parent / "image.png")
    save_file({"log_probs": ours}, exported.parent / "ours.safetensors")
    command = [sys.executable, "-I", "-c", ALONE, str(exported), PROMPT]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)
    assert finished.returncode == 0, finished.stderr
    said = json.loads(finished.stdout.splitlines()[-1])
    print(f"transformers alone differs by {said['difference']:.1e}")
    assert said["ours"] == []
    assert said["tokens"] == len(ours)
    assert said["difference"] <= 1e-5


def test_a_changed_weight_would_be_noticed(exported: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    with torch.no_grad():
        model.backbone.hf.model.multi_modal_projector.linear_2.bias += 1
    assert float((own_log_probs(model) - log_probs_of_transformers(exported)).abs().max()) > 1e-3


def test_the_model_comes_back_bit_for_bit(exported: Path, tmp_path: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    model.save_pretrained(tmp_path / "again")
    again = AvgLlava.from_pretrained(tmp_path / "again")
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    images, prompts = [fixed_image(), None], ["What is it?", "Who are you?"]
    assert model.generate(images, prompts, max_new_tokens=3).texts == (
        again.generate(images, prompts, max_new_tokens=3).texts
    )


def test_the_router_is_the_one_that_was_trained(run: Path, exported: Path) -> None:
    trained = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    router = load_file(exported / "router.safetensors")
    assert {f"model.router.{name}" for name in router} == {name for name in trained if "router" in name}
    assert all(torch.equal(tensor, trained[f"model.router.{name}"]) for name, tensor in router.items())


def test_the_card_says_what_the_model_was_trained_on(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for told in ("stage: RGLF", "seed: 0", "commit: ", "1, 2, 4, 8, 16 tokens per tile", "AvgLlava.from_pretrained"):
        assert told in card


def test_generate_tells_the_granularity_the_probabilities_and_the_tokens(exported: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    images, prompts = [fixed_image(), fixed_image(), None], ["What is it?", "How many are there?", "Hello?"]
    answers = model.generate(images, prompts, max_new_tokens=4)
    assert answers.probabilities.shape == (3, 5)
    assert answers.granularities[:2] == [
        model.granularities.tokens[level] for level in answers.probabilities.argmax(dim=1)[:2]
    ]
    assert answers.visual_tokens[2] == 0
    coarse = model.generate(images, prompts, FixedPolicy(1), max_new_tokens=4)
    fine = model.generate(images, prompts, FixedPolicy(16), max_new_tokens=4)
    assert (coarse.granularities, fine.granularities) == ([1] * 3, [16] * 3)
    assert coarse.visual_tokens[0] < fine.visual_tokens[0]
    with pytest.raises(UserError, match="oracle looks at the answers"):
        model.generate(images, prompts, OraclePolicy())


def test_a_prompt_is_answered_alone_as_in_a_batch(exported: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    images, prompts = [fixed_image(), None], ["What is it?", "A much longer question, is it not?"]
    together = model.generate(images, prompts, max_new_tokens=5, generation=Generation()).texts
    alone = [
        model.generate([one], [asked], max_new_tokens=5).texts[0] for one, asked in zip(images, prompts, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        ([None], ["  "], "prompt 0 is empty"),
        ([None], ["<image> what?"], "prompt 0 says <image> itself"),
        ([[fixed_image(), fixed_image()]], ["Which?"], "image 0 is 2 images"),
        (["image.png"], ["What?"], "image 0 is 'image.png', but a prompt shows one PIL image"),
        ([], ["What?"], "0 images for 1 prompts"),
    ],
)
def test_bad_prompts_are_refused(images: list[object], prompts: list[str], message: str, exported: Path) -> None:
    with pytest.raises(UserError, match=message):
        AvgLlava.from_pretrained(exported).generate(images, prompts)  # pyright: ignore[reportArgumentType]


def test_a_model_without_a_processor_says_where_to_get_one(model: AvgLlava) -> None:
    with pytest.raises(UserError, match="no processor; load one that `lit-avg export` wrote"):
        model.generate([None], ["Hello?"])


def test_an_export_neither_overwrites_nor_invents(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["export", "--ckpt", str(run), "--out", str(exported)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["export", "--ckpt", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "there is no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_whose_router_scores_nothing_is_neither_exported_nor_asked(run: Path, exported: Path) -> None:
    model = AvgLlava.from_pretrained(exported)
    with torch.no_grad():
        for parameter in model.router.parameters():
            parameter.fill_(1e30)  # finite, and too large to compute with
    with pytest.raises(UserError, match="the router's scores are not finite"):
        own_log_probs(model)
    for policy in (None, FixedPolicy(1)):
        with pytest.raises(UserError, match="the router's scores are not finite"):
            model.generate([fixed_image()], [PROMPT], policy, max_new_tokens=2)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    next(tensor for name, tensor in checkpoint["state_dict"].items() if "router" in name).fill_(torch.nan)
    torch.save(checkpoint, run / "checkpoints" / "nan.ckpt")
    assert main(["export", "--ckpt", str(run / "checkpoints" / "nan.ckpt"), "--out", str(run.parent / "nan")]) == 2
    assert not (run.parent / "nan").exists()
