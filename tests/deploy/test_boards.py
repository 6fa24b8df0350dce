"""The boards: written from their source, whole in Grafana's own types, every query PromQL."""

from __future__ import annotations

import json
from itertools import combinations

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import BOARDS
from deploy.grafana.build import DIRECTORY
from deploy.grafana.panels import Board, to_json
from tests.deploy.prometheus import filled_in

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)


def test_the_chart_has_the_boards_as_they_are_in_the_source() -> None:
    assert {file.name: file.read_text("utf-8") for file in DIRECTORY.glob("*.json")} == {
        f"{board.slug}.json": to_json(board) for board in BOARDS
    }, "run: python -m deploy.grafana.build"


@each_board
def test_grafanas_types_read_a_board_and_write_it_back(board: Board) -> None:
    text = to_json(board)
    again = JSONEncoder(sort_keys=True, indent=1).encode(Dashboard.from_json(json.loads(text)))
    assert json.loads(again) == json.loads(text)


@each_board
def test_panels_stand_side_by_side_and_have_words_and_queries(board: Board) -> None:
    panels = json.loads(to_json(board))["panels"]
    places = [panel["gridPos"] for panel in panels]
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(panel["description"] and panel["targets"] and panel["title"] for panel in panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


@each_board
def test_every_query_is_promql_of_the_chosen_replicas(board: Board) -> None:
    for panel in board.panels:
        for query in panel.queries:
            promql_parser.parse(filled_in(query.promql))
            assert 'job=~"$job"' in query.promql, panel.title


def test_the_parser_refuses_what_is_not_promql() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        promql_parser.parse("sum by (x) rate(a[5m])")
