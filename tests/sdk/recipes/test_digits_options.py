from __future__ import annotations

import pytest

from lepton_ai.recipes.digits.options import Options, parse


def test_the_defaults_are_the_demos() -> None:
    assert parse([], world_size=2) == Options(
        epochs=3, batch_size=128, max_learning_rate=5e-3, seed=0, log_every_steps=20
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--epochs=0"], "'0' is not a whole number of at least 1", id="no epoch"),
        pytest.param(["--epochs=2.5"], "'2.5' is not a whole number", id="half an epoch"),
        pytest.param(["--batch-size=-1"], "'-1' is not a whole number", id="a negative batch"),
        pytest.param(["--batch-size=3"], "for each of 4 ranks", id="fewer digits than ranks"),
        pytest.param(["--max-learning-rate=2"], "between 0 and 1", id="a rate of 2"),
        pytest.param(["--max-learning-rate=nan"], "between 0 and 1", id="a rate of NaN"),
        pytest.param(["--max-learning-rate=fast"], "between 0 and 1", id="a rate in words"),
        pytest.param(["--seed=-1"], "from 0 to 4294967295", id="a negative seed"),
        pytest.param(["--epoch=3"], "unrecognized arguments: --epoch=3", id="a flag cut short"),
    ],
)
def test_a_wrong_flag_is_refused_with_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments, world_size=4)

    assert refused.value.code == 2
    assert sentence in capsys.readouterr().err
