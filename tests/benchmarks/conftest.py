"""The benchmarks are no part of the package: they are found in the checkout, behind all that is installed."""

import os
import sys

import pytest
import sqlalchemy as sa

from tests.conftest import ROOT

sys.path.append(str(ROOT))


@pytest.fixture
def server(postgres_server: str) -> sa.URL:
    """A PostgreSQL whose processes are here: the benchmarks look at their CPU times."""
    if "NEXUS_TEST_POSTGRES_URL" in os.environ:
        pytest.skip("this server may be anywhere, and is shared")
    return sa.make_url(postgres_server)
