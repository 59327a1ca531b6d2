"""Errors that a user can act on. Each carries the exit code that the command line answers with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MOST = 100  # options that a hint lists


class JensenError(Exception):
    """Base of all errors raised on purpose; printed as one message, without a traceback."""

    exit_code = 1


class ConfigError(JensenError):
    """A model, setting or option that does not exist or does not fit. Lists every problem at once.

    >>> str(ConfigError(["'latent' is not a setting", "lr: expected > 0, got -1.0"]))
    "2 problems:\\n  - 'latent' is not a setting\\n  - lr: expected > 0, got -1.0"
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            text = f"{len(self.problems)} problems:" + "".join(f"\n  - {p}" for p in self.problems)
        super().__init__(text)


class DataError(JensenError):
    """Data that cannot be read or used; names the file, column, row or value.

    Args:
        said: what is wrong.
        advice: what to do about it in a file, put behind that.
    """

    exit_code = 3

    def __init__(self, said: str, advice: str = ""):
        self.said, self.advice = said, advice
        super().__init__(said + advice)

    @classmethod
    def of(cls, name: str, problems: Sequence[DataError]) -> DataError:
        """Of data by their name, all problems at once."""
        if len(problems) == 1:
            return cls(f"{name}: {problems[0].said.removeprefix(f'{name}: ')}", problems[0].advice)
        return cls(f"{name}: " + "\n  ".join(str(problem).removeprefix(f"{name}: ") for problem in problems))


class CapabilityError(JensenError):
    """The model cannot do this job; says why and what can."""

    exit_code = 4


class IntegrityError(JensenError):
    """A file that is corrupt, truncated or not what its record says."""

    exit_code = 5


class ResourceError(JensenError):
    """Memory or disk ran out; says what to try."""


class TrainingError(JensenError):
    """Training cannot go on (a term is not finite); names the batch, the term and the parameter."""


class PrecisionWarning(UserWarning):
    """float32 lost digits that matter, and float64 took its place."""


class DataWarning(UserWarning):
    """Data hold something that a model learns nothing of; names the column."""


class FitWarning(UserWarning):
    """A fit met something that its user should know: a part that no datum needs, or too few data for what is asked."""


class SeparationWarning(UserWarning):
    """Likelihood has no maximum: a weight grows without bound; names the feature that it belongs to."""


class InferenceWarning(UserWarning):
    """Something about a target or what was inferred of it that makes the answer doubtful."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?`, or the list of options when nothing is near.

    >>> did_you_mean("latent", ["latents", "prior"])
    "; did you mean 'latents'?"
    >>> did_you_mean("qqq", ["prior", "latents"])
    '; choose from latents, prior'
    """
    options = sorted(options)
    more = f" and {len(options) - MOST:,} more" if len(options) > MOST else ""
    return nearest(word, options) or (f"; choose from {', '.join(options[:MOST])}{more}" if options else "")


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?`, or nothing when nothing is near.

    >>> nearest("qqq", ["prior", "latents"])
    ''
    >>> nearest("male", ["Female", "Male"])
    "; did you mean 'Male'?"
    """
    options = sorted(options)
    alike = [option for option in options if option.lower() == word.lower()]
    near = alike or difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
