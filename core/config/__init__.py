"""What a run is: its config with schedule, evaluations and strengths, and its identity.

Torch-free, so that planning and analysis can import all of it.

Fields are in `run` and, grouped, in `parts`; norms in `strength`; kinds of schedules in `schedule`,
of evaluations in `evaluation_kinds`; backbones and datasets in YAML files that `registry` and
`datasets` read.
"""

from core.config.evaluation import EvalConfig as EvalConfig
from core.config.evaluation_kinds import AutoAttack as AutoAttack
from core.config.evaluation_kinds import Corruptions as Corruptions
from core.config.evaluation_kinds import RobustAccuracy as RobustAccuracy
from core.config.parts import Attack as Attack
from core.config.parts import Augment as Augment
from core.config.parts import Lora as Lora
from core.config.parts import Objective as Objective
from core.config.parts import Optim as Optim
from core.config.parts import Validation as Validation
from core.config.run import RunConfig as RunConfig
from core.config.schedule import Schedule as Schedule
from core.config.schedule import resolve_schedule as resolve_schedule
from core.config.strength import Strength as Strength
from core.config.strength import shown as shown
from core.config.values import fields_of as fields_of
from core.config.values import nearest as nearest
from core.config.values import problems as problems
from core.errors import ConfigError as ConfigError
