"""What a schedule sees of an epoch, with what a test does not care about filled in."""

from core.training.epsilon_schedule import Seen


def seen(epoch: int, val_clean: float, **given: object) -> Seen:
    fields = {"classes": 100, "val_adv": 0.0, "train_clean": None, "train_adv": None}
    return Seen(epoch=epoch, val_clean=val_clean, **{**fields, **given})  # type: ignore[arg-type]
