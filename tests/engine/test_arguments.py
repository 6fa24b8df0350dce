from __future__ import annotations

import dataclasses

import pytest

from engine.arguments import known_arguments


@pytest.mark.engine
def test_the_names_are_those_that_vllm_takes() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    assert known_arguments() == {field.name for field in dataclasses.fields(AsyncEngineArgs)}
