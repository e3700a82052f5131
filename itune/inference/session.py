"""A model loaded for inference: a checkpoint of a run, or any weights as they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from itune.data.prompt import render_prompt, stop_ids
from itune.data.tokenizer import Tokenizer, check_vocabulary
from itune.errors import UserError
from itune.inference.generate import Generator
from itune.inference.loglikelihood import Scorer
from itune.inference.opening import Opened, open_model
from itune.models.compute import Compute
from itune.models.config import AnyModelConfig
from itune.models.rules import rules_for
from itune.models.spec import ModelSpec, Params
from itune.parallel.config import RULES, MeshConfig, Rules
from itune.parallel.mesh import batch_sharding, make_mesh, param_sharding
from itune.weights.load import load_base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A model on its devices, with what it takes to talk to it.

    name: what was loaded, for people.  params: every parameter by path.  prompt_format: "plain" or "chat".
    prefix_lm: whether its prompts were bidirectional in training.
    """

    name: str
    tokenizer: Tokenizer
    spec: ModelSpec
    params: Params
    compute: Compute
    mesh: jax.sharding.Mesh
    prompt_format: str
    prefix_lm: bool = False

    def generator(self, batch_size: int) -> Generator:
        return Generator(self.spec, self.params, self.compute, batch_size=batch_size, prefix_lm=self.prefix_lm)

    def scorer(self, batch_size: int) -> Scorer:
        return Scorer(self.spec, self.params, self.compute, batch_size=batch_size, prefix_lm=self.prefix_lm)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply: see `itune.data.prompt.stop_ids`."""
        return stop_ids(self.tokenizer, self.prompt_format)

    def encode(self, text: str) -> list[int]:
        """The ids of a single question, in the session's prompt format."""
        return render_prompt(self.tokenizer, text, self.prompt_format)

    def put(self, batch: Any) -> Any:
        """A host batch on the mesh, rows over data x fsdp."""
        return jax.device_put(batch, batch_sharding(self.mesh))


def load(
    source: str,
    *,
    step: str | None = None,
    prompt_format: str | None = None,
    adapter: str = "",
    mesh: MeshConfig | None = None,
) -> Session:
    """A model on all devices, divided as `mesh` says, or (None) on one; the other arguments are `open_model`'s.

    Raises: UserError.
    """
    opened = open_model(source, step=step, prompt_format=prompt_format, adapter=adapter)
    if mesh is None:
        return build(opened)
    try:
        # Batches are filled up to a multiple of what takes rows.
        placed, rules = lay_out(mesh, opened.spec.config)
    except ValueError as error:
        raise UserError(f"--mesh: {error}") from None
    return build(opened, mesh=placed, rules=rules)


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def lay_out(config: MeshConfig, model: AnyModelConfig) -> tuple[jax.sharding.Mesh, Rules]:
    """All devices, and where the model's parameters lie on them. Raises: ValueError if that does not go together."""
    mesh = make_mesh(config)
    return mesh, rules_for(model, mesh.shape["tensor"], config.rules)


def build(opened: Opened, *, mesh: jax.sharding.Mesh | None = None, rules: Rules = RULES) -> Session:
    """What was opened, on the devices of `mesh`, laid out by `rules`; None is one device.

    Raises: UserError for tensors that are no good.
    """
    mesh = mesh or one_device()
    folder, spec, weights, trained = opened.folder, opened.spec, opened.weights, opened.trained
    tokenizer = Tokenizer.from_folder(folder)
    check_vocabulary(tokenizer, spec.config.vocab_size, folder)
    compute = Compute(
        dtype=weights.compute_dtype,
        scan=weights.scan_layers,
        attention=weights.attention,
        remat=weights.remat,
        mesh=mesh if mesh.size > 1 else None,
        rules=rules,
    )
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], compute.rules)  # noqa: E731
    base = load_base(folder, spec, place, frozen_dtype=compute.activations, instead=trained)
    adapters = {path: jax.device_put(trained[path], place(path)) for path in spec.adapter_paths()}
    return Session(
        name=opened.name,
        tokenizer=tokenizer,
        spec=spec,
        params={**base, **adapters},
        compute=compute,
        mesh=mesh,
        prompt_format=opened.prompt_format,
        prefix_lm=opened.prefix_lm,
    )
