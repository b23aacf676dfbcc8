"""Where an operator that works alone leaves the page it renders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_provider.hooks import aws
from mlops_provider.hooks.tables import TablesHook

if TYPE_CHECKING:
    from mlops_provider.stores.reports import Reports


def pages(uri: str, aws_conn_id: str) -> Reports | None:
    """
    A place for pages: a folder, an ``s3://`` address, or the suite's own reports; None if there is none.

    :param uri: Folder or address; empty for the suite's reports, if a connection of the tables says where they are.
    :param aws_conn_id: Connection of type ``aws`` for ``s3://``.
    """
    from mlops_provider.stores.reports import Reports
    from mlops_provider.stores.s3 import is_s3

    if uri:
        return Reports(uri, aws.s3(aws_conn_id) if is_s3(uri) else None)
    hook = TablesHook()
    return hook.reports if hook.configured else None
