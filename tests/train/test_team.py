"""One process is a team too; what several cannot do, and the loss of one, is a line that says how to go on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from undiffuse.errors import UndiffuseError
from undiffuse.train.sharding import full
from undiffuse.train.team import Team, reporting_lost_peers


def test_alone_everything_is_its_own():
    team, rows = Team(), np.arange(6.0).reshape(3, 2)
    assert (team.index, team.count, team.writes, team.share(7)) == (0, 1, True, range(7))
    assert team.gather(rows) is rows and team.total(rows) is rows
    assert (team.any(True), team.any(False)) == (True, False)
    whole = torch.ones(2)
    assert full(whole, wanted=False) is whole  # what was not cut is whole for all


def test_each_has_its_rows_and_together_they_have_all():
    team, shares = Team(), []
    team.count = 4
    for team.index in range(4):
        shares += team.share(12)
    assert shares == list(range(12))
    with pytest.raises(UndiffuseError, match="batch_size 10 cannot be shared by 4 processes evenly"):
        team.share(10)


@pytest.mark.parametrize(("out", "words"), [(None, "then start again"), (Path("run"), "--resume --out run")])
def test_a_lost_peer_is_one_line(out, words):
    lost = pytest.raises(UndiffuseError, match="another process of this training has stopped")
    with lost as caught, reporting_lost_peers(out):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_our_own_is_not_a_lost_peer():
    with pytest.raises(RuntimeError, match="shapes do not fit"), reporting_lost_peers():
        raise RuntimeError("shapes do not fit")
