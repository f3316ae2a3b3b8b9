"""What a plan changes of a self-attention apart from its queries: keys, masks and positions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from bigain.compression import checks
from bigain.compression.architectures import Part
from bigain.compressors import Compressor, Plan, TokenMap

# The cosines and the sines of each token's position, [S, D] for all samples or [B, S, D] for each.
Rotation = tuple[Tensor, Tensor]


@dataclass
class Changes:
    """The changes of one call of an attention.

    Attributes:
        arguments: those of its arguments that change.
        given: the shape of the tokens that it is given, [B, tokens].
        keys: the number of tokens that its keys are made of, or None if these are the queries'.
        tokens: these tokens, where the arguments cannot hold them.
        rotations: the rotation after each of the norms that `Part.rotary` names.
    """

    arguments: dict[str, Any]
    given: tuple[int, int] = (0, 0)
    keys: int | None = None
    tokens: Tensor | None = None
    rotations: dict[str, Rotation] = field(default_factory=dict)


def changes(
    compressor: Compressor,
    part: Part,
    plan: Plan,
    y: Tensor,
    count: int,
    read: Callable[[str], Any],
) -> Changes:
    """What the plan changes.

    Args:
        y: the ``hidden_states`` that the attention was called with.
        count: N, the number of image tokens among them.
        read: returns an argument of the call by its name.
    """
    text, image = part.split(y, count)
    found = Changes({})
    if plan.keys_values is not None:
        checks.check_projections(compressor, part.module)
        tokens = plan.keys_values(image)
        queries = plan.queries.size if plan.queries else count
        checks.check_scores(compressor, part.module, queries, tokens.shape[1])
        if part.joint:
            found.tokens = part.join(text, tokens)
            found.keys = found.tokens.shape[1]
        else:
            found.arguments["encoder_hidden_states"] = tokens
            found.keys = tokens.shape[1]
    slots = plan.attended
    if slots and (slots.ragged or slots.proportional):
        checks.check_weights(compressor, part)
        # the logarithm of an empty slot masks it
        counts = slots.counts if slots.proportional else slots.counts.clamp(max=1)
        exact = counts.to(torch.promote_types(y.dtype, torch.float32))
        mask = exact.log().to(y.dtype)
        if part.joint:
            others = read("encoder_hidden_states") if text is None else text
            mask = torch.cat([mask.new_zeros(len(mask), others.shape[1]), mask], dim=1)
        axes = (1,) * ((part.mask_axes or 0) - mask.ndim)
        found.arguments["attention_mask"] = mask.view(len(mask), *axes, mask.shape[1])
    if part.rotary and (table := read("image_rotary_emb")) is not None:
        found.arguments["image_rotary_emb"] = None
        here = (table[0].to(y.device), table[1].to(y.device))
        found.rotations = _rotations(compressor, part, plan, here, count)
    return found


def _rotations(
    compressor: Compressor, part: Part, plan: Plan, table: Rotation, count: int
) -> dict[str, Rotation]:
    """The rotation after each norm, by the name of its attribute.

    Args:
        table: the rotations of the text's tokens and then of the image's N, which is ``count``.
    """
    found = plan.keys_values
    key_tokens = found.tokens if isinstance(found, TokenMap) else plan.key_tokens
    if found is not None and key_tokens is None:
        raise ValueError(
            f"the plan of {compressor!r} does not say at which token's position each key lies, "
            "which this model's rotary positions need; set key_tokens of its Plan"
        )
    text = (table[0][:-count], table[1][:-count])
    queries = _turned(part, table, count, plan.queries.tokens if plan.queries else None)
    keys = _turned(part, table, count, key_tokens) if found is not None else queries
    return dict(zip(part.rotary, (queries, keys, text, text), strict=False))


def _turned(part: Part, table: Rotation, count: int, tokens: Tensor | None) -> Rotation:
    """The rotation of image tokens, after the text's if this comes first.

    Args:
        tokens: int64 [M] or [B, M], or None for all.
    """

    def rows(whole: Tensor) -> Tensor:
        if tokens is None:
            return whole if part.text_first else whole[-count:]
        image = whole[-count:][tokens]
        if not part.text_first:
            return image
        text = whole[:-count].expand(*image.shape[:-2], -1, -1)
        return torch.cat([text, image], dim=-2)

    return rows(table[0]), rows(table[1])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys [B, S, heads, D], each rotated by its position as diffusers does."""
    sequence = x
    if rotation[0].ndim == 3:  # diffusers takes one table, so all samples become one sequence
        cosines, sines = (one.expand(len(x), -1, -1).flatten(0, 1) for one in rotation)
        sequence, rotation = x.flatten(0, 1).unsqueeze(0), (cosines, sines)
    turned: Tensor = apply_rotary_emb(sequence, rotation, sequence_dim=1)
    return turned.view(x.shape)
