"""The method in the authors' way, plain and correct, with the semantics of their release: the thing to beat.

A stage-4 step encodes the images N + 1 times and runs the LLM N times, a stage-3 step N times each; the LLM reads
padded rows and makes the logits of every position. The filter compares every token with every visual token, and the
router is torch's Transformer layer, sequence first. Rows hold one question each, with an image. No code is shared with
ours but the weights, the order of an image's tokens, and the losses that turn scores and feedback into a number.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, Batch
from lit_avg.model import AvgLlava
from lit_avg.routing.losses import best_granularity_loss, release_ranking_loss


class Naive:
    """Losses of stages 3 and 4, and the logits of a prompt, by the parameters of an `AvgLlava`.

    Args:
        model: whose parameters are used, and receive the gradients.
        eager_encoder: the encoder attends step by step, as the release's does.
    """

    def __init__(self, model: AvgLlava, eager_encoder: bool = True) -> None:
        self.model, self.hf, self.router = model, model.backbone.hf, model.router
        self.eager_encoder = eager_encoder
        theirs, fusion = model.router.fusion.self_attn, model.router.fusion
        width, heads = theirs.embed_dim, theirs.num_heads
        self.layer = nn.TransformerEncoderLayer(width, heads, dim_feedforward=width, dropout=fusion.dropout.p)
        self.layer.load_state_dict(fusion.state_dict(keep_vars=True), assign=True)  # the very same parameters
        self.layer.train(fusion.training)

    def encode(self, batch: Batch) -> Tensor:
        """(tiles, finest tokens, D); the encoder without gradient, all its layers, all their outputs kept.

        It attends without a fused kernel, as in the release: the 833 GFLOP counted there include these products.
        """
        tower = self.hf.model.vision_tower
        fused = tower.config._attn_implementation
        tower.set_attn_implementation("eager" if self.eager_encoder else fused)
        with torch.no_grad():
            outputs = tower(batch.pixel_values, output_hidden_states=True)
        tower.set_attn_implementation(fused)
        return self.hf.model.multi_modal_projector(outputs.hidden_states[self.hf.config.vision_feature_layer][:, 1:])

    def pooled(self, features: Tensor, level: int) -> Tensor:
        """(tiles, tokens of the level, D)."""
        granularities = self.model.granularities
        side, (rows, columns) = granularities.side, granularities.grids[level]
        plane = features.transpose(1, 2).unflatten(2, (side, side))
        return F.avg_pool2d(plane, (side // rows, side // columns)).flatten(2).transpose(1, 2)

    def rows_at(self, batch: Batch, level: int, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, S, D), attention mask and labels (B, S) of all rows at a level, padded on the right."""
        images = self.pooled(features, level).split(batch.tiles)
        embed, newline = self.hf.model.language_model.get_input_embeddings(), self.hf.model.image_newline
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for row, image in enumerate(batch.image_of_row.tolist()):
            real = batch.question[row] != PADDING
            ids, own = batch.input_ids[row][real], batch.labels[row][real]
            at = int((ids == IMAGE_PLACEHOLDER).nonzero())
            height, width = batch.image_sizes[image].tolist()
            order = self.model.layout.sequence(batch.tile_grids[image], (height, width), level).to(ids.device)
            visual = torch.cat([images[image].flatten(0, 1), newline.unsqueeze(0)])[order]  # -1 is the newline
            rows.append(torch.cat([embed(ids[:at]), visual, embed(ids[at + 1 :])]))
            labels.append(torch.cat([own[:at], own.new_full((len(visual),), IGNORED_LABEL), own[at + 1 :]]))
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(own) for own in labels], batch_first=True)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded, mask, nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)

    def logits_at(self, batch: Batch, level: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S, V) of every position in float32, and the labels (B, S)."""
        embeddings, mask, labels = self.rows_at(batch, level, features)
        hidden = self.hf.model.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        return self.hf.lm_head(hidden.last_hidden_state).float(), labels

    def nll_at(self, batch: Batch, level: int) -> tuple[Tensor, Tensor]:
        """Negative log-prob of every token that follows (B, S - 1), 0 where it is no answer token, and which are."""
        logits, labels = self.logits_at(batch, level, self.encode(batch))
        following = labels[:, 1:]
        nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), following.flatten(), reduction="none")
        return nll.view_as(following), following != IGNORED_LABEL

    def stage3(self, batch: Batch) -> Tensor:
        """Mean over levels of the mean negative log-prob of all answer tokens."""
        losses: list[Tensor] = []
        for level in range(len(self.model.granularities)):
            nll, answered = self.nll_at(batch, level)
            losses.append(nll.sum() / answered.sum())
        return torch.stack(losses).mean()

    def stage4(self, batch: Batch, alpha: float = 0.1) -> Tensor:
        """Ranking loss by the LLM's own losses, and alpha times the cross-entropy with the best level."""
        feedback: list[Tensor] = []
        for level in range(len(self.model.granularities)):
            with torch.no_grad():
                nll, answered = self.nll_at(batch, level)
            feedback.append(-nll.sum(dim=1) / answered.sum(dim=1))
        scores, preferences = self.route(batch).float().log_softmax(dim=1), torch.stack(feedback, dim=1)
        return release_ranking_loss(scores, preferences) + alpha * best_granularity_loss(scores, preferences)

    def route(self, batch: Batch, features: Tensor | None = None) -> Tensor:
        """Router logits (B, N), from another pass of the encoder unless there are features."""
        with torch.no_grad():
            features = self.encode(batch) if features is None else features
            levels = [self.pooled(features, level) for level in range(len(self.model.granularities))]
        logits: list[Tensor] = []
        for row, begin in enumerate([sum(batch.tiles[:image]) for image in range(len(batch.tiles))]):
            tiles = slice(begin, begin + batch.tiles[row])
            heard = self.heard(batch, row, levels[-1][begin]).expand(batch.tiles[row], -1, -1)
            fused = self.layer(torch.cat([*(level[tiles] for level in levels), heard], dim=1))  # the first axis: tiles
            votes = (self.router.mlp(fused).transpose(1, 2) @ self.router.voter.unsqueeze(1)).squeeze(2)
            logits.append(self.router.norm(votes.mean(dim=0)))
        return torch.stack(logits)

    def heard(self, batch: Batch, row: int, global_view: Tensor) -> Tensor:
        """(k, D) the tokens without label that are most like the image; there must be as many."""
        ids = batch.input_ids[row][(batch.labels[row] == IGNORED_LABEL) & (batch.question[row] != PADDING)]
        text = self.hf.model.language_model.get_input_embeddings()(ids[ids != IMAGE_PLACEHOLDER])
        cosines = F.cosine_similarity(text.unsqueeze(1), global_view.unsqueeze(0), dim=2).mean(dim=1)
        return text[cosines.sort(descending=True).indices[: self.model.instruction_filter.k]]

    @torch.no_grad()
    def prefill(self, batch: Batch, level: int) -> Tensor:
        """Encode, route (though the level is given) and read a prompt: the logits of the next token, (B, V)."""
        features = self.encode(batch)
        self.route(batch, features)
        return self.logits_at(batch, level, features)[0][:, -1]
