"""One version, whatever a ledger says: what stands in for a follower where a package is served."""

from __future__ import annotations

from mlops_provider.serving.snapshot import LoadedVersion, Snapshot


class Fixed:
    """
    A version with all the traffic; see :class:`mlops_provider.serving.follower.Follower` for what is asked of it.

    :param model: Name of the model.
    :param replica: Name of this replica in the prediction log.
    :param version: What is served.
    """

    unreleased = False
    trouble = ""

    def __init__(self, model: str, *, replica: str, version: LoadedVersion) -> None:
        self.model = model
        self.replica = replica
        # Generations of the ledger begin at 1.
        self.snapshot = Snapshot(model, 0, {version.version: 100}, {version.version: version})

    def start(self) -> None:
        """Nothing is followed."""

    def stop(self) -> None:
        """Nothing was."""
