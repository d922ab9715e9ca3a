"""What a model returned for one sequence, and the clean runs that are made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from noiser.lm.kv_cache import CleanRun, KeysValues, LayoutName, RowGradients
from noiser.lm.requests import ForwardRequest


@dataclass(frozen=True, eq=False)
class ForwardResult:
    """What the model returned for one request. Clean runs are made of it once the layout is known."""

    request: ForwardRequest
    embeds: Float[Tensor, "seq dim"]
    logits: Float[Tensor, "ends vocab"]
    layers: tuple[KeysValues, ...]
    gradients: Mapping[int, Tensor]
    """By the index of the end that each belongs to."""
    attention: Tensor | None
    choose_layout: Callable[[int], LayoutName]
    length_class: Callable[[int], int]
    ahead: RowGradients | None = None

    def clean_run(self) -> CleanRun:
        """The clean run of the whole sequence."""
        last = len(self.request.ends) - 1
        return CleanRun(
            self.request.prompt,
            self.embeds,
            self.logits[last],
            self.layers,
            self.gradients.get(last),
            self.attention,
            self.ahead,
            choose_layout=self.choose_layout,
            length_class=self.length_class,
        )

    def clean_runs(self) -> list[CleanRun]:
        """The clean run up to each end, the whole sequence last."""
        whole = self.clean_run()
        ends = enumerate(self.request.ends[:-1])
        return [*(whole.truncated(end + 1, self.logits[index], self.gradients.get(index)) for index, end in ends), whole]
