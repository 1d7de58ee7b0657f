"""What one run is: `RunConfig` holds everything that affects results, and nothing else.

Where and how a run executes (partition, workers, micro-batch, tracking) is in a profile, so moving
a run to another cluster never changes its identity. Torch-free: planning imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.config import own_code
from core.config.canon import lora_used, objective_used, optim_used
from core.config.knobs import Code
from core.config.names import parent_of, slug_of
from core.config.parts import (
    TRAINS,
    Attack,
    Augment,
    Lora,
    Objective,
    Optim,
    Precision,
    Protocol,
    Validation,
)
from core.config.registry import backbone, backbones, canonical_backbone, size_problem
from core.config.schedule import Schedule, unused, with_schedule
from core.config.strength import Norm, Strength, in_pixels
from core.config.values import Count, Part, delta_of, hashed, named_or_full, problems
from core.errors import ConfigError

UNATTACKED = Strength(Fraction(4, 255))
"""Strength (l-inf) at which runs of standard fine-tuning are validated by default."""


def untrained(config: RunConfig) -> RunConfig:
    """A config with `schedule: none`, with all fields reset that only training uses: a network is
    then evaluated once, whichever grid asks for it. Raises ValueError if its weights are random,
    which leaves it without a trained head.
    """
    if config.parent:
        raise ValueError(
            "weights: schedule none trains nothing; to evaluate another run, add evals to it"
        )
    if config.weights == "random":
        raise ValueError(
            "weights: schedule none evaluates a network with the head in its file, expected a "
            "checkpoint or pretrained, got random"
        )
    kept = {"backbone", "weights", "dataset", "image_size", "normalisation"}
    fields = RunConfig.model_fields.items()
    plain = {name: field.default for name, field in fields if name not in kept}
    nothing = {"schedule": Schedule(kind="none"), "epochs": 0, "epsilon_g": Strength(Fraction(0))}
    code = tuple(pair for pair in config.code if pair[0] == config.backbone)
    return config.model_copy(update=plain | nothing | {"code": code})


class RunConfig(Part):
    """One training run; two equal configs are the same run, wherever they are launched from."""

    backbone: Annotated[str, Field(min_length=1), BeforeValidator(canonical_backbone)]
    """A shorthand of the registry, a timm id, or a function of the user's: 'my_pkg.mod:build'."""
    weights: Annotated[str, Field(min_length=1)] = "pretrained"
    """'pretrained' (from timm), 'random', or a checkpoint: its full path, or its name in
    <root>/weights; 'file.pt#NAME' selects one of several sets of weights in the file. 'run:ID'
    stands for the final weights, head included, of a run of the same network on the same dataset;
    a grid names that run by what it changes."""
    dataset: Annotated[str, Field(min_length=1), AfterValidator(named_or_full)]
    """A known name, or the full path of a folder with train/, val/ and test/."""
    image_size: Annotated[Count, Field(ge=8)] = 224
    normalisation: Literal["weights", "guide"] = "weights"
    """Mean and standard deviation by which the model normalises its input: those that the weights
    were trained with, or those of the guide (arXiv 2508.14079), which differ for twelve of its
    forty backbones."""
    norm: Norm = "linf"
    """Threat model of training and of the validation's attack."""
    epsilon_g: Strength = Strength(Fraction(4, 255))
    """Target strength eps_g, for pixels in [0, 1]."""
    schedule: Schedule = Schedule()
    epochs: Annotated[int, Field(strict=True, ge=0)] = 50
    """0 only with `schedule: none`, which evaluates a network without training it."""
    batch: Count = 128
    """Effective batch: images per optimiser step."""
    batchnorm_images: Count | None = None
    """Images over which BatchNorm takes its statistics in training, a divisor of the batch, however
    many fit in memory; None means the micro-batch, which each epoch's row records."""
    protocol: Protocol = "full"
    """What is trained: `full` everything; `linear` only the head, on a frozen backbone; `lora` the
    head and low-rank adapters."""
    lora: Lora = Lora()
    objective: Objective = Objective()
    optim: Optim = Optim()
    attack: Attack = Attack()
    validation: Validation = Validation()
    augment: Augment = Augment()
    precision: Precision = "fp32"
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0  # fits an int64 column
    code: Code = ()
    """Digests of the user's own code that the run uses, see `with_code`."""

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        return with_schedule(data)

    @field_validator("epochs")
    @classmethod
    def _at_least_one(cls, epochs: int, info: ValidationInfo) -> int:
        schedule = info.data.get("schedule")
        if not epochs and (schedule is None or schedule.trains):
            raise ValueError(
                "expected at least 1, got 0; to evaluate a network without training it, use "
                "schedule: none"
            )
        return epochs

    @model_validator(mode="after")
    def _canonical(self) -> Self:
        # A field that a run does not use must not change its id.
        if not self.schedule.trains:
            vars(self).update(vars(untrained(self)))
        vars(self).update(
            schedule=self.schedule.model_copy(update=unused(self.schedule.kind)),
            optim=optim_used(self.optim, self.protocol),
            normalisation=self._canonical_normalisation(),
            objective=objective_used(self.objective, self.protocol, self.schedule.attacks),
        )
        lora = lora_used(self.lora, self.adapted, self.backbone)
        code = tuple(pair for pair in self.code if pair[0] in self.own_names)
        vars(self).update(lora=lora, code=code)
        # Standard fine-tuning never attacks: it is one run, whatever eps_g a table needs it for.
        if not self.schedule.attacks:
            if self.validation.epsilon is None:
                vars(self)["norm"] = "linf"
            vars(self)["epsilon_g"] = Strength(Fraction(0), self.norm)
            vars(self)["attack"] = Attack()
        elif not self.epsilon_g:
            raise ValueError("epsilon_g: 0 means no attack, use schedule: standard")
        else:  # a default is not validated
            vars(self)["epsilon_g"] = Strength(self.epsilon_g.number, self.norm)
        self._validated_in_its_norm()
        usual = self.epsilon_g or (UNATTACKED if in_pixels(self.norm) else None)
        if self.validation.epsilon == usual:
            implied = self.validation.model_copy(update={"epsilon": None})
            vars(self)["validation"] = implied
        images = self.batchnorm_images
        if own_code.is_own(self.backbone) and self.weights == "pretrained":
            raise ValueError(
                f"weights: {self.backbone} has no 'pretrained' weights; expected random (as the "
                "function returns it) or a checkpoint"
            )
        if not TRAINS[self.protocol].backbone:  # BatchNorm keeps its statistics
            vars(self)["batchnorm_images"] = None
        elif images and self.batch % images:
            raise ValueError(
                f"batchnorm_images: expected a divisor of the batch, {self.batch}, got {images}"
            )
        misfit = size_problem(self.backbone, self.image_size)
        if misfit:
            raise ValueError(f"image_size: {misfit}")
        return self

    def _canonical_normalisation(self) -> Literal["weights", "guide"]:
        """'guide' only if it differs from 'weights'; ValueError if the guide's is unknown."""
        if self.normalisation == "guide" and self.backbone not in backbones():
            raise ValueError(
                "normalisation: 'guide' is known only for the backbones of `sweep weights list`, "
                f"not for {self.backbone}; expected weights"
            )
        return self.normalisation if backbone(self.backbone).guide_norm else "weights"

    def _validated_in_its_norm(self) -> None:
        if self.validation.epsilon is None:
            return
        try:
            strength = Strength.parse(self.validation.epsilon, self.norm)
        except ValueError as error:
            raise ValueError(f"validation.epsilon: {error}") from None
        validation = self.validation.model_copy(update={"epsilon": strength})
        vars(self)["validation"] = validation

    @classmethod
    def check(cls, data: Mapping[str, Any]) -> RunConfig | list[tuple[str, str]]:
        """The config, or all problems at once as (dotted key, one-line message) pairs."""
        found = []
        try:
            data = with_schedule(data)
        except ValueError as error:
            # Leave it out, so that the other fields are still checked.
            data = {key: value for key, value in data.items() if key != "schedule"}
            found.append(("schedule", f"schedule: {error}"))
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            return found + problems(error, cls)
        return found or config

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str = "config") -> RunConfig:
        """The run that a nested mapping describes. Raises ConfigError with all problems at once,
        each with `where` before it.

        >>> RunConfig.parse({"backbone": "resnet50", "dataset": "caltech101"}).setting
        'fix'
        """
        config = cls.check(data)
        if isinstance(config, list):
            raise ConfigError(*(f"{where}: {line}" for _, line in config))
        return config

    @property
    def id(self) -> str:
        """`<slug>-<16 hex>`: a readable name, and a hash of schema version and delta."""
        return self.id_of(self.delta)

    def id_of(self, delta: Mapping[str, Any]) -> str:
        """`id`, for callers that have computed `delta` already."""
        return f"{self.slug}-{hashed(delta)}"

    @property
    def slug(self) -> str:
        """The readable part of an id: backbone, dataset, strength, protocol unless full, setting,
        seed; in characters that are safe in file names."""
        strength = self.epsilon_g if self.schedule.attacks else None
        shared = slug_of(self.backbone, self.dataset, strength, self.protocol, self.setting)
        return f"{shared}-s{self.seed}"

    @property
    def parent(self) -> str | None:
        """Id of its parent, from whose weights it begins; None if it has no parent."""
        return parent_of(self.weights)

    @property
    def adapted(self) -> bool:
        """Whether its network has adapters while it is trained."""
        return TRAINS[self.protocol].adapters or self.objective.adapts

    @property
    def own_names(self) -> tuple[str, ...]:
        """Import paths of the user's own code that the run uses."""
        names = self.backbone, self.schedule.kind, self.objective.kind
        return tuple(name for name in names if own_code.is_own(name))

    def with_code(self) -> Self:
        """A copy with the digests of the user's own code as this process finds it. Raises
        ConfigError if it is not found."""
        code = tuple(sorted(own_code.digests(self.own_names).items()))
        return self.model_copy(update={"code": code}) if code != self.code else self

    def check_code(self) -> None:
        """Raises ConfigError if the user's own code has changed since the run was planned."""
        own_code.check(self.code)
        if missing := {*self.own_names} - {name for name, _ in self.code}:
            raise ConfigError(f"code: no digest of {min(missing)}, see RunConfig.with_code")

    def with_optim(self, optim: Optim) -> Self:
        """A copy with another optimiser."""
        return self.model_copy(update={"optim": optim_used(optim, self.protocol)})

    @property
    def delta(self) -> dict[str, Any]:
        """The fields that differ from their defaults. Ids hash only these, so a new field with a
        neutral default keeps old ids."""
        return delta_of(self)

    @property
    def setting(self) -> str:
        """The name of this run's schedule in tables."""
        return self.schedule.label(self.epochs)

    @property
    def validation_epsilon(self) -> Strength:
        """Strength of the per-epoch adversarial accuracy: as configured, or eps_g, or 4/255 if
        training does not attack."""
        if self.validation.epsilon is not None:
            return self.validation.epsilon
        return self.epsilon_g or UNATTACKED

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data with strengths as text; `RunConfig.parse` makes the config again."""
        return self.model_dump(mode="json")
