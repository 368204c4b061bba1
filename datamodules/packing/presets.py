"""What is peculiar about the data sets that people train LLaVA-like models on.

`generic` takes LLaVA's form as it is written down: records `{"id", "image", "conversations": [{"from", "value"}, …]}`,
where `id` and `image` may be missing. Every preset also takes ids that are numbers, missing or repeated (a sample is
named by its running number), `image` as a list of one, `<image>` at either end with or without a newline, and system
prompts as a first turn or as a field `system`.

cc595k
    LLaVA-CC3M-Pretrain-595K: `chat.json`, a list of 595,375 captions in one round each, `<image>` before or behind the
    request, and `images.zip`, whose images (`GCC_train_….jpg`) lie at its top, or in `images/` where people have
    zipped the unpacked folder again.
allava
    ALLaVA-4V: four lists, LAION and VFLAN, captions and instructions, given together as one `--annotations`. Images
    are named from above both sets (`allava_laion/images/….jpeg`, `allava_vflan/images/….jpg`), while each set's zips
    begin at `images/`: `--images allava_laion=images_0.zip`, once per zip. Images come from the web: some are gone,
    and the extension is not always the record's.
llava-665k
    `llava_v1_5_mix665k.json`: 665,298 records, about 40K text-only ones out of ShareGPT without `image`. Their
    images are named `coco/train2017/…`, `gqa/images/…`, `ocr_vqa/images/…`, `textvqa/train_images/…` and
    `vg/VG_100K…`: one folder with these below it, or a zip each, as in `--images coco/train2017=train2017.zip`.
    OCR-VQA's images are named .jpg but are often downloaded as .gif or .png. ShareGPT's conversations may begin with
    an answer, which LLaVA's own code leaves out too, end with a question that nobody answers, or have an empty turn.
open-llava-next-1m
    `open-llava-next_instruct_mix1M.json`: about a million records with everything that is said of llava-665k, and
    images out of more sets (`sam/images/…`, `chartqa/train/png/…`, `docvqa/images/…`, `dvqa/images/…`,
    `ai2d/images/…`, `llava/llava_pretrain/images/…`, `share_textvqa/images/…`, `web-celebrity/images/…`, and more).
"""

from dataclasses import dataclass

from lit_avg.utils.errors import UserError


@dataclass(frozen=True)
class Preset:
    """What may be done to make a record usable, and where its image may lie."""

    folders: tuple[str, ...] = ()  # around the images in archives of the set
    any_extension: bool = False  # the image may have another one than the record says
    whole_rounds: bool = False  # leave out what is no round: a leading answer, a trailing question, empty turns


PRESETS = {
    "generic": Preset(),
    "cc595k": Preset(folders=("images",)),
    "allava": Preset(any_extension=True),
    "llava-665k": Preset(any_extension=True, whole_rounds=True),
    "open-llava-next-1m": Preset(any_extension=True, whole_rounds=True),
}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
