import pytest

from phiv_train.testing import Check, LoadedFamily, family_checks, load_family


@pytest.fixture(scope="module")
def loaded() -> LoadedFamily:
    return load_family("smolvlm_toy")


@pytest.mark.parametrize("check", family_checks(), ids=lambda check: check.__name__)
def test_smolvlm_keeps_the_interface(check: Check, loaded: LoadedFamily) -> None:
    check(loaded)
