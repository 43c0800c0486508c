"""The benchmarks are no part of the package: they are found in the checkout, behind all that is installed."""

import sys

from tests.conftest import ROOT

sys.path.append(str(ROOT))
