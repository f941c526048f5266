"""All suites by name."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.evaluation.suite import Suite, SuiteOptions

SUITES: dict[str, str] = {
    "toybox": "cogvideox.evaluation.suites.toybox:toybox_suite",
    "reconstruction": "cogvideox.evaluation.suites.reconstruction:reconstruction_suite",
    "vbench": "cogvideox.evaluation.suites.vbench:vbench_suite",
    "mtscore": "cogvideox.evaluation.suites.mtscore:mtscore_suite",
    "devil": "cogvideox.evaluation.suites.devil:devil_suite",
    "distribution": "cogvideox.evaluation.suites.distributions:distribution_suite",
}
"""Module and function that build each suite; imported when it is used."""


def build_suite(name: str, options: SuiteOptions) -> Suite:
    """Build a suite.

    Raises:
        UserError: unknown suite, or options that it rejects.
    """
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}: choose one of {', '.join(SUITES)}")
    module, function = SUITES[name].split(":")
    build: Callable[[SuiteOptions], Suite] = getattr(import_module(module), function)
    return replace(build(options), options=config.to_dict(options))
