"""Where a model's parameters lie on a mesh: the defaults, its family's rules, what the user asks for; in that order."""

from __future__ import annotations

from collections.abc import Mapping

from itune.models.config import AnyModelConfig
from itune.parallel.config import RULES, Rules

# ModelConfig.family -> {logical axis: mesh axis}, where a family lies otherwise than `Rules` has it. So far none does:
# how many heads there are to split differs within families, and `rules_for` counts them.
FAMILY_RULES: dict[str, Mapping[str, str | None]] = {}


def rules_for(model: AnyModelConfig, tensor: int, asked: Mapping[str, str | None]) -> Rules:
    """Of a model over `tensor` devices. Key-value heads that can't be divided are copied, unless they are asked for.

    asked: `MeshConfig.rules`.
    Raises: ValueError, in the user's terms, if heads don't divide over the mesh.
    """
    rules = RULES.updated(FAMILY_RULES.get(model.family, {})).updated(asked)
    heads, kv_heads = model.num_heads, model.num_kv_heads
    if rules.heads and heads % tensor:
        raise ValueError(
            f"MeshConfig.tensor={tensor} must divide the model's {heads} query heads ({kv_heads} key-value heads); "
            "MeshConfig.rules={'heads': None} copies attention and splits the rest"
        )
    if rules.kv_heads and (kv_heads % tensor or not rules.heads):
        if asked.get("kv_heads"):
            why = f"MeshConfig.tensor={tensor} must divide the model's {kv_heads} key-value heads"
            raise ValueError(
                f"MeshConfig.rules={dict(asked)}: {why if rules.heads else 'kv_heads are split where heads are'}"
            )
        rules = rules.updated({"kv_heads": None})
    return rules
