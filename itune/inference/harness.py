"""A model of ours in EleutherAI's lm-evaluation-harness, as `--model itune`. Importing this needs lm-eval.

import itune.inference.harness
lm_eval.simple_evaluate(model="itune", model_args="model=runs/quickstart", tasks=["arc_easy"])
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, make_disjoint_window, make_table

from itune.errors import UserError, nearest
from itune.inference import flags, session
from itune.inference.answers import MAX_NEW_TOKENS, Answers

BATCH_SIZE = 8


@register_model("itune")
class HarnessLM(TemplateLM):
    """`TemplateLM` splits (context, continuation) into tokens; `Answers` has the rest."""

    def __init__(
        self,
        model: str | session.Session,
        step: str | int | None = None,
        adapter: str = "",
        batch_size: int | str = BATCH_SIZE,
        max_length: int | None = None,
        max_gen_toks: int = MAX_NEW_TOKENS,
        seed: int = 0,
        max_batch_size: int | None = None,
        device: str | None = None,
        mesh: str | tuple[int, ...] = "",
    ):
        """model, step, adapter: as of `itune.generate`.  batch_size: rows computed together; "auto" is 8.

        max_length, max_gen_toks, seed: see `Answers`.  mesh: "1,4,2", see `itune.inference.flags.mesh`.
        max_batch_size, device: lm-eval's command gives them to every model ("cuda:0" unasked); they change nothing, for
        JAX chooses the device.
        Raises: UserError.
        """
        super().__init__()
        if isinstance(model, str):
            # lm-eval's model_args are split at commas: "1:4:2" is the same.
            divided = flags.mesh(str(mesh).replace(":", ","))
            model = session.load(model, step=None if step is None else str(step), adapter=adapter, mesh=divided)
        self.name = model.name
        self.batch_size = BATCH_SIZE if str(batch_size).startswith("auto") else int(batch_size)
        self.answers = Answers(
            model, batch_size=self.batch_size, max_length=max_length, max_new_tokens=max_gen_toks, seed=seed
        )
        self.backend = "seq2seq" if self.answers.encoder else "causal"

    @property
    def eot_token_id(self) -> int:
        return self.answers.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.answers.prefix_id

    @property
    def max_length(self) -> int:
        return self.answers.max_length

    @property
    def tokenizer_name(self) -> str:
        """By content: lm-eval keeps rendered requests under this name."""
        return f"itune-{self.answers.tokenizer.digest}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, or None if none is to be applied. Raises: UserError where there is none."""
        if chat_template is False or chat_template is None:
            return None
        if self.answers.tokenizer.chat_template is None:
            raise UserError(f"{self.name} has no chat template: leave --apply_chat_template out")
        if isinstance(chat_template, str) and chat_template != "default":
            raise UserError(f"{self.name} has one chat template, and none named {chat_template!r}")
        return self.answers.tokenizer.chat_template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.answers.render(chat_history, add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.answers.encode(string, add_special_tokens)

    def _loglikelihood_tokens(self, requests, **kwargs):
        """[((context, continuation), their ids, ...)] -> [(log-probability, greedy)]."""
        return self.answers.score([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Each text's log-probability, every token predicted once, in windows of `max_length`."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                pairs.append(make_disjoint_window(window))
                owners.append(number)
        parts: list[list[float]] = [[] for _ in requests]
        for number, (logprob, _) in zip(owners, self.answers.score(pairs), strict=True):
            parts[number].append(logprob)
        return [math.fsum(part) for part in parts]

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        return self.answers.generate([request.args for request in requests])

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model."""
        params = self.answers.session.params
        return {
            "model_name": self.name,
            "model_num_parameters": sum(array.size for array in params.values()),
            "model_dtype": str(self.answers.session.compute.dtype),
        }


def evaluate(
    lm: HarnessLM,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    apply_chat_template: bool = False,
    output: Path | None = None,
) -> str:
    """lm-eval's tables of the results, which `output` has whole, as JSON.

    Raises: UserError for a task, group or tag that there is not, or whose data cannot be had.
    """
    manager = TaskManager(include_path=include_path)
    for task in tasks:
        if not (manager.match_tasks([task]) or Path(task).is_file()):
            raise UserError(f"--tasks: lm-eval has no {task!r}.{nearest(task, manager.all_tasks)}")
    try:
        results = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            log_samples=False,
        )
    except OSError as error:  # no network, or a file that is not there
        raise UserError(f"--tasks={','.join(tasks)}: their data could not be read: {error}") from error
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1, default=handle_non_serializable, ensure_ascii=False)
        output.write_text(text + "\n", "utf-8")
    return "\n".join(make_table(results, part) for part in ("results", "groups") if results.get(part))
