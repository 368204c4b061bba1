"""FLOPs that a step cannot do without, by the shapes alone: one pass of the encoder, and the LLM where it is read.

Of the encoder, the layers up to the one that is read. Of the LLM, every token through every layer, but in the last one
only keys and values and what predicts an answer token; causal attention is half of the square; the head at those
tokens. Of the router, queries, keys and values of the finest level and the text. A backward pass through trained
weights is twice the forward.
"""

from dataclasses import dataclass

from benchmarks.shapes import Shape
from lit_avg.model import AvgLlava


@dataclass(frozen=True)
class Necessary:
    """FLOPs of one step's parts, forward only."""

    vision: float
    connector: float
    llm: tuple[float, ...]  # of each level
    router: float
    router_input: float  # of it the products whose input needs no gradient

    @property
    def stage3(self) -> float:
        """The encoder forward, connector and LLM there and back."""
        return self.vision + 3 * (self.connector + sum(self.llm))

    @property
    def stage4(self) -> float:
        """All forward, the router back as well."""
        return self.vision + self.connector + sum(self.llm) + 3 * self.router - self.router_input


def necessary(shape: Shape, model: AvgLlava, visual_tokens: list[int]) -> Necessary:
    """Count for a shape's batch, whose images have so many tokens at each level."""
    tiles, levels = shape.rows * (1 + shape.tile_grid[0] * shape.tile_grid[1]), model.granularities
    finest, width = levels.finest, shape.llm["hidden_size"]
    text = shape.before_image + shape.instruction + shape.answer
    per_slot, slots = 2 * width**2, levels.router_slots + shape.k
    projections = tiles * (finest + shape.k) * 3 * per_slot
    return Necessary(
        vision=tiles * vision_flops(shape, finest),
        connector=tiles * finest * 2 * (shape.vision["hidden_size"] * width + width**2),
        llm=tuple(shape.rows * llm_flops(shape.llm, text + visual, shape.answer) for visual in visual_tokens),
        router=projections + tiles * slots * 4 * per_slot,
        router_input=projections,
    )


def vision_flops(shape: Shape, patches: int) -> float:
    """Of one tile; the layer behind the last one that is read is left out, as `vision_feature_layer` is -2."""
    vision, tokens = shape.vision, patches + 1
    layer = 2 * tokens * (4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"])
    attention = 4 * tokens**2 * vision["hidden_size"]
    embedding = 2 * patches * 3 * vision["patch_size"] ** 2 * vision["hidden_size"]
    return embedding + (vision["num_hidden_layers"] - 1) * (layer + attention)


def llm_flops(llm: dict[str, int], tokens: int, read: int) -> float:
    """Of one row of so many tokens, whose last layer is read at some of them."""
    width, layers = llm["hidden_size"], llm["num_hidden_layers"]
    own_heads = 2 * 2 * width**2  # queries and output
    shared_heads = own_heads * llm["num_key_value_heads"] / llm["num_attention_heads"]  # keys and values
    feed = 3 * 2 * width * llm["intermediate_size"]
    full = (layers - 1) * (tokens * (own_heads + shared_heads + feed) + 2 * tokens**2 * width)
    last = tokens * shared_heads + read * (own_heads + feed + 4 * tokens * width)
    return full + last + read * 2 * width * llm["vocab_size"]
