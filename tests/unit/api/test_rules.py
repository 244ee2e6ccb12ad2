from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from lepton_operator.api.common import ApiModel
from lepton_operator.api.inference import InferenceServiceSpec
from lepton_operator.api.model import LeptonModelSpec
from lepton_operator.api.training import TrainingJobSpec
from tests.bad_input import BAD, Bad

SPECS: Mapping[str, type[ApiModel]] = {
    "TrainingJob": TrainingJobSpec,
    "LeptonModel": LeptonModelSpec,
    "InferenceService": InferenceServiceSpec,
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.case)
def test_pydantic_refuses_what_the_api_server_refuses(bad: Bad) -> None:
    with pytest.raises(ValidationError) as refused:
        SPECS[bad.kind].model_validate(bad.spec)
    assert not bad.rule or bad.sentence in str(refused.value)
