"""How strong an attack is: a number and the norm it is measured in.

The norm decides the text form, which files, tables and logs share: 255ths of the pixel range in
l-inf ('4/255'), a plain number in l2 and l1 ('0.2').
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, ValidationInfo
from pydantic_core import core_schema

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
"""A new norm also needs an entry in every table that is keyed by norm; a test checks this."""
LARGEST = 10**6
"""No l2 or l1 ball in [0, 1]^n with images of any size is larger."""


def in_pixels(norm: Norm) -> bool:
    """Whether a strength in this norm bounds single pixels: then it is in [0, 1] and written in
    255ths."""
    return {"linf": True, "l2": False, "l1": False}[norm]


def scale_of(norm: Norm) -> int:
    """The factor from a strength to the unit in which it is shown: 255, or 1 for plain numbers."""
    return 255 if in_pixels(norm) else 1


class Exact(Fraction):
    """A fraction that computes its hash once, which takes 1.3 us: curves are dicts by strength."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:  # type: ignore[override]  # that of numbers.Complex is None
        try:
            return self._hash
        except AttributeError:
            self._hash = super().__hash__()
            return self._hash


@dataclass(frozen=True, order=True, slots=True)
class Strength:
    """An exact strength for pixels in [0, 1]. Ordered by number; equal only in the same norm.

    As a field of a config it is parsed in the config's `norm`, a field declared before it, and
    dumped as text.
    """

    number: Fraction
    norm: Norm = "linf"

    @classmethod
    def parse(cls, value: object, norm: Norm = "linf") -> Strength:
        """A strength in `norm` from '4/255', '0.03', 0, Fraction(4, 255) or another strength.

        Range: [0, 1] for l-inf, [0, LARGEST] for l2 and l1. Raises ValueError for anything else;
        for a bare '4' in l-inf the message suggests 4/255.

        >>> str(Strength.parse("8/255")), str(Strength.parse("0.5", "l2"))
        ('8/255', '0.5')
        """
        return _of_text(value, norm) if isinstance(value, str) else cls._of(value, norm)

    @classmethod
    def _of(cls, value: object, norm: Norm) -> Strength:
        number = value.number if isinstance(value, Strength) else fraction(value)
        if not in_pixels(norm) and not 0 <= number <= LARGEST:
            raise ValueError(f"a strength for {norm} lies in [0, {LARGEST}], got {value}")
        if in_pixels(norm) and not 0 <= number <= 1:
            whole = number.denominator == 1 and 1 < number <= 255
            hint = f", did you mean {number}/255?" if whole else ""
            raise ValueError(f"a strength lies in [0, 1], got {value}{hint}")
        return cls(number, norm)

    @classmethod
    def of_255ths(cls, value: float, norm: Norm = "linf") -> Strength:
        """The exact strength of a value from a result frame, a float in 255ths in any norm."""
        return cls(Fraction(value).limit_denominator(LARGEST) / 255, norm)

    @property
    def in_255ths(self) -> float:
        """The value for a column of result frames, in any norm."""
        return float(self.number * 255)

    def __hash__(self) -> int:
        # hash(Fraction), which must equal the hash of an equal float, takes five times as long.
        return hash((self.number.numerator, self.number.denominator, self.norm))

    def __str__(self) -> str:
        """l-inf: '8/255' (not reduced), or a plain fraction if it is no multiple of 1/255. l2 and
        l1: '0.2', or a fraction if no decimal equals it. `parse` inverts it."""
        return in_255ths(self.number) if in_pixels(self.norm) else decimal(self.number)

    def __float__(self) -> float:
        return float(self.number)

    def __bool__(self) -> bool:
        """False for strength 0, which is no attack."""
        return bool(self.number)

    @property
    def slug(self) -> str:
        """Its part of a run id: 'eps4', 'l2_eps1_5'."""
        if in_pixels(self.norm):
            return f"eps{self.number * 255}".replace("/", "_")
        return f"{self.norm}_eps{self.number}".replace("/", "_")

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> core_schema.CoreSchema:
        def in_norm_of_config(value: object, info: ValidationInfo) -> Strength:
            return cls.parse(value, info.data.get("norm", "linf"))

        return core_schema.with_info_plain_validator_function(
            in_norm_of_config, serialization=core_schema.to_string_ser_schema(when_used="always")
        )


@lru_cache(4096)
def _of_text(value: str, norm: Norm) -> Strength:
    """Cached, since files of 10,000 runs hold a dozen texts a million times: 0.3 us instead of
    4."""
    return Strength._of(value, norm)


NO_ATTACK = Strength(Fraction(0))


def no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


def fraction(value: object) -> Fraction:
    """The exact number that '4/255', ' 1 / 4' or 0.03 stands for. Raises ValueError."""
    no_bool(value)
    text = str(value).replace(" ", "")
    try:
        # Fraction expands exponents: 1e-999999999 would fill the memory.
        return Exact("" if re.search(r"[eE][+-]?[\d_]{3}", text) else text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a strength such as 4/255, got {value!r}") from None


def in_255ths(number: Fraction) -> str:
    """'8/255' if that is exact, else a plain fraction. Ids hash this form in every norm."""
    scaled, rest = divmod(number.numerator * 255, number.denominator)
    return f"{scaled}/255" if number and not rest else str(number)


@lru_cache
def decimal(number: Fraction) -> str:
    """'0.2', '37.5', '12'; a fraction such as '1/3' if no decimal of up to 50 digits equals it."""
    with localcontext(prec=50):
        quotient = Decimal(number.numerator) / number.denominator
    return f"{quotient:f}" if Fraction(quotient) == number else str(number)


def shown(epsilon: float, norm: Norm) -> str:
    """A strength rounded for display: '2.67/255', or '0.5' for l2 and l1."""
    return f"{epsilon * 255:.3g}/255" if in_pixels(norm) else f"{epsilon:.3g}"


def _listed(value: object) -> object:
    """A list of strengths unchanged, or the range '0..16/255' as 0, 1/255, ..., 16/255. Raises
    ValueError for other text."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*/\s*(\d+)\s*", value)
        low, high, unit = map(int, match.groups()) if match else (0, 0, 0)
        if not unit or high - low > 1000:
            raise ValueError(f"expected a list of strengths or '0..16/255', got {value!r}")
        return [Fraction(i, unit) for i in range(low, high + 1)]
    return value


Strengths = Annotated[tuple[Strength, ...], BeforeValidator(_listed)]


AnyStrength = Annotated[
    Strength,
    PlainValidator(lambda value: Strength.parse(value, "l2")),
    PlainSerializer(str, return_type=str, when_used="always"),
]
"""A strength in a part that has no `norm`; the enclosing config parses it again in its norm."""
