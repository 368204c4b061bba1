import warnings

from lit_avg.commands.fit import quiet_lightning

ADVICE = (
    "It is recommended to use `self.log('val/loss', ..., sync_dist=True)` when logging on epoch level in distributed "
    "setting to accumulate the metric across devices."
)


def test_lightning_does_not_advise_to_average_what_all_ranks_have_alike() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quiet_lightning()
        warnings.warn(ADVICE, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in said] == ["something else"]
