"""For converter authors and data pipelines: the conformance kit, and `assert_valid` for a dataset.

from phiv_data.testing import Case, check_converter, conformance_checks, assert_valid
"""

from phiv_data.testing.case import Case, Check
from phiv_data.testing.conformance import assert_valid, check_converter, conformance_checks

__all__ = ["Case", "Check", "assert_valid", "check_converter", "conformance_checks"]
