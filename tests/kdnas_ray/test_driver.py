import pytest
from ray.tune import TuneError

from kdnas_ray.driver import _behind


def raised_in_tune() -> None:
    """As Tune's controller does with what a callback raises."""
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        raise TuneError("Traceback (most recent call last): …")  # noqa: B904


def test_error_of_ours_is_told_from_behind_that_of_tune():
    with pytest.raises(TuneError) as wrapped:
        raised_in_tune()
    assert str(_behind(wrapped.value)) == "[Errno 28] No space left on device"


def test_error_of_tune_itself_stays_what_it_is():
    error = TuneError("Trials did not complete")
    assert _behind(error) is error
