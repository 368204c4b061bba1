"""`Wording`: how conversations become tokens, which a checkpoint remembers.

A model that was taught with one template and is asked with another answers worse, and nothing else would tell.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerFast

from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of

WORDING_KEY = "wording"
"""Entry of a data module's state."""


@dataclass(frozen=True)
class Wording:
    """Names for people, and hashes that hold however files are called."""

    template: str
    template_hash: str
    system_prompt: str
    tokenizer: str
    vocabulary_hash: str

    def state(self) -> dict[str, dict[str, str]]:
        """What a checkpoint keeps."""
        return {WORDING_KEY: asdict(self)}

    def check_same_as(self, state: Mapping[str, Mapping[str, str]]) -> None:
        """Refuse a checkpoint that was trained with another wording.

        Args:
            state: what `state` gave then; from before checkpoints kept it, nothing.

        Raises:
            UserError: names what differs, then and now.
        """
        then = state.get(WORDING_KEY)
        if then is None:
            return
        differing = [
            f"{what}: {then[what]!r} -> {now!r}"
            for what, now, same in (
                ("template", self.template, then["template_hash"] == self.template_hash),
                ("system_prompt", self.system_prompt, then["system_prompt"] == self.system_prompt),
                ("tokenizer", self.tokenizer, then["vocabulary_hash"] == self.vocabulary_hash),
            )
            if not same
        ]
        if differing:
            raise UserError(
                f"this checkpoint was trained with other words ({', '.join(differing)}); change the data back"
            )


def wording(
    template: str, template_text: str, system_prompt: str | None, name: str, tokenizer: PreTrainedTokenizerFast
) -> Wording:
    """The wording of a template (its name and its text), a system prompt and a tokenizer (its name and itself)."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return Wording(template, hash_of(template_text, 16), system_prompt or "", name, hash_of(vocabulary, 16))
