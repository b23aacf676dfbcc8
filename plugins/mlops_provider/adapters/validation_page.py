"""
Render a validation as one HTML page that needs nothing else: no script, no network.

Great Expectations' own page loads styles and scripts from other servers and shows values of rows; this does neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from mlops_provider.adapters.expectations import Validation

_STANDINGS = ("refused", "set apart", "warned", "met")
"""In the order of the page."""

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def validation_page(validation: Validation, *, model: str, partition: str, about: Mapping[str, Any]) -> str:
    """
    Write the validation report: the verdict, then every expectation, what was not met first.

    :param partition: Month of the data; empty for a table of somebody else, of which no rows are set apart.
    :param about: What was checked, as names and values to show.
    :return: HTML, readable in light and dark; it holds counts and limits, no value of a row.
    """
    return _templates.get_template("validation.html").render(
        validation=validation,
        model=model,
        partition=partition,
        about=about,
        refused="the month is refused" if partition else "the table is refused",
        apart="rows in quarantine" if partition else "rows to mend",
        outcomes=sorted(validation.outcomes, key=lambda outcome: _STANDINGS.index(outcome.standing)),
    )
