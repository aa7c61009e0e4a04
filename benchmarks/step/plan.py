"""The plan of a run: its contenders, its batches and its time."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.step.contenders import (
    ABLATIONS,
    COMPILED,
    COMPILED_LORA,
    CONTENDERS,
    FULL,
    GPU_ABLATIONS,
    LORA,
    Contender,
)


@dataclass(frozen=True)
class Group:
    """Contenders that are compared with each other, and take turns where they fit together."""

    contenders: list[Contender]
    batches: tuple[int, ...]
    ablated: bool = False
    """Whether they are there for the ablation alone."""


@dataclass(frozen=True)
class StepPlan:
    """One run."""

    size: str
    """A name in models.SIZES."""
    device: str
    """cpu or cuda."""
    batches: tuple[int, ...]
    """Rising: what follows a batch that does not fit is not tried."""
    contenders: tuple[str, ...] = tuple(c for c in CONTENDERS if c not in (COMPILED, COMPILED_LORA))
    base: str = FULL
    """The configuration of tglo where the ablation starts; the contenders that train as it does come first."""
    ablation_batch: int = 0
    """The batch of the ablation; 0 leaves it out."""
    rounds: int = 7
    """Turns of each contender at each batch; its time is their median."""
    steps: int = 1
    """Steps in a round, without a wait between them."""
    enough: float = 60.0
    """Seconds after which a contender has been timed enough at a batch, from the third round on."""
    seconds: float = 1800.0
    """Time for everything; the rows of what is left then say so."""
    threads: int = 2
    fork: bool = True
    """Fork processes from one that has imported everything: no import may have looked at CUDA."""
    quick: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    def ablations(self) -> dict[str, Contender]:
        """Return each change to the base with the contender that has it."""
        further = {} if self.on_cpu else GPU_ABLATIONS[self.base]
        return {**ABLATIONS[self.base], **further}

    def groups(self) -> list[Group]:
        """Return the groups in the order of their importance."""
        main = [CONTENDERS[name] for name in self.contenders]
        train = CONTENDERS[self.base].train
        alike, others = ([c for c in main if (c.train == train) is same] for same in (True, False))
        ablated: list[Contender] = []
        if self.ablation_batch:
            known = set(self.contenders) if self.ablation_batch in self.batches else set()
            wanted = [CONTENDERS[self.base], *self.ablations().values()]
            ablated = [contender for contender in wanted if contender.name not in known]
        found = [
            Group(alike, self.batches),
            Group(ablated, (self.ablation_batch,), ablated=True),
            Group(others, self.batches),
        ]
        return [group for group in found if group.contenders]


PLANS = {
    "sdxl": {
        "quick": StepPlan("tiny", "cpu", (2,), ablation_batch=2, rounds=1, threads=1, quick=True),
        "cpu": StepPlan("small", "cpu", (1, 2, 4), ablation_batch=2),
        "cuda": StepPlan(
            "sdxl",
            "cuda",
            (1, 2, 4, 8, 16),
            contenders=tuple(CONTENDERS),
            ablation_batch=4,
            rounds=5,
            steps=2,
            enough=3.0,
            seconds=450.0,
            threads=8,
            fork=False,
        ),
    },
    "flux": {
        "quick": StepPlan("flux-tiny", "cpu", (2,), rounds=1, threads=1, quick=True),
        # Few kinds of blocks: compiling takes a minute here.
        "cpu": StepPlan(
            "flux-small",
            "cpu",
            (1, 2, 4),
            contenders=tuple(name for name in CONTENDERS if name != COMPILED_LORA),
            ablation_batch=2,
            rounds=5,
            seconds=560.0,
        ),
        # All weights of FLUX with AdamW's state need more than one GPU.
        "cuda": StepPlan(
            "flux",
            "cuda",
            (1, 2, 4),
            contenders=tuple(n for n, c in CONTENDERS.items() if c.train == "lora"),
            base=LORA,
            ablation_batch=1,
            rounds=5,
            steps=2,
            enough=3.0,
            seconds=450.0,
            threads=8,
            fork=False,
        ),
    },
    "wan": {
        "quick": StepPlan("wan-tiny", "cpu", (2,), rounds=1, threads=1, quick=True),
        "cpu": StepPlan(
            "wan-small",
            "cpu",
            (1, 2, 4),
            contenders=tuple(name for name in CONTENDERS if name not in (COMPILED, COMPILED_LORA)),
            ablation_batch=2,
            rounds=5,
            seconds=560.0,
        ),
        "cuda": StepPlan(
            "wan",
            "cuda",
            (1, 2),
            contenders=tuple(n for n, c in CONTENDERS.items() if c.train == "lora"),
            base=LORA,
            ablation_batch=1,
            rounds=5,
            enough=3.0,
            seconds=450.0,
            threads=8,
            fork=False,
        ),
    },
}
"""The plans that flags start from, by model."""
