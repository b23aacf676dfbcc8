"""What ``mlops ci`` found: told line by line, and written as JUnit XML, which every CI system reads."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlops_provider.exceptions import ConfigurationError, MLOpsError, NothingToDo

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Characters that XML 1.0 has no way to write."""


class RedError(MLOpsError):
    """A check failed, and has been told: no later stage is run."""


@dataclass(frozen=True, slots=True)
class Check:
    """
    One check and how it went.

    :param subject: Model, or file, that was checked.
    :param failure: What is wrong, in words; empty if nothing is.
    :param skipped: Why it was not done; empty if it was.
    """

    stage: str
    subject: str
    name: str
    seconds: float = 0.0
    failure: str = ""
    skipped: str = ""


@dataclass
class Report:
    """Collects the checks of a run, and tells each as it ends."""

    checks: list[Check] = field(default_factory=list)

    @property
    def red(self) -> bool:
        """Whether one failed."""
        return any(check.failure for check in self.checks)

    @contextmanager
    def check(self, stage: str, subject: str, name: str) -> Iterator[None]:
        """
        Do one check: an error of ours inside makes it red, with its message.

        :raises RedError: It is red.
        """
        began = time.monotonic()
        failure = skipped = ""
        try:
            yield
        except RedError:
            raise
        except NothingToDo as reason:
            skipped = str(reason)
        except MLOpsError as error:
            failure = str(error)
        self._tell(Check(stage, subject, name, time.monotonic() - began, failure, skipped))
        if failure:
            raise RedError(failure)

    def skip(self, stage: str, subject: str, name: str, reason: str) -> None:
        """Note what was not done, and why."""
        self._tell(Check(stage, subject, name, skipped=reason))

    def write(self, path: Path) -> None:
        """
        Write JUnit XML: a test suite for each stage, a test case for each check.

        :raises ConfigurationError: The file can't be written. Not retried.
        """
        root = ET.Element("testsuites", {"name": "mlops ci", **_counts(self.checks)})
        for stage in dict.fromkeys(check.stage for check in self.checks):
            checks = [check for check in self.checks if check.stage == stage]
            suite = ET.SubElement(root, "testsuite", {"name": stage, **_counts(checks)})
            for check in checks:
                case = ET.SubElement(
                    suite, "testcase", classname=check.subject, name=check.name, time=f"{check.seconds:.3f}"
                )
                for word, text in (("failure", check.failure), ("skipped", check.skipped)):
                    if text:
                        plain = _CONTROL.sub("", text)
                        ET.SubElement(case, word, message=plain.splitlines()[0]).text = plain
        ET.indent(root)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
        except OSError as error:
            raise ConfigurationError(f"{path} can't be written: {error.strerror}.") from error

    def _tell(self, check: Check) -> None:
        self.checks.append(check)
        state = "RED" if check.failure else "skipped" if check.skipped else f"{check.seconds:.1f} s"
        print(f"{check.stage:<10} {check.subject:<24} {check.name:<36} {state:>8}", flush=True)
        if check.failure:
            print("\n".join(f"{check.stage}: {line}" for line in check.failure.splitlines()), flush=True)
        elif check.skipped:
            print(f"{'':<10} {check.skipped}", flush=True)


def _counts(checks: list[Check]) -> dict[str, str]:
    return {
        "tests": str(len(checks)),
        "failures": str(sum(bool(check.failure) for check in checks)),
        "errors": "0",
        "skipped": str(sum(bool(check.skipped) for check in checks)),
        "time": f"{sum(check.seconds for check in checks):.3f}",
    }
