"""The picture of the demo holds what was said, once."""

from __future__ import annotations

from xml.etree import ElementTree

import pyarrow as pa

from simulations.picture import DRAWN, Picture


def test_a_picture_keeps_one_answer_and_the_shards_after_the_kill() -> None:
    picture = Picture()
    picture.opening()
    with picture.bar() as bars:
        bars.add("flights", 100)
        bars.begin("flights")
        bars.move("flights", 100, "4 shards")
    picture.shards([("flights", "bafkr4ibefore", 25_000, 1, ["worker-1"])], ["worker-1"])
    picture.answer("Another?", "SELECT 2", pa.table({"n": [1]}), "5 ms", equal=True)
    picture.answer(DRAWN, "SELECT 1", pa.table({"n": [9], "m": [10_000]}), "7 ms", equal=True)
    picture.shards([("flights", "bafkr4iafterw", 25_000, 1, ["worker-1"])], ["worker-1"], "worker-1")
    svg = picture.svg()
    text = "".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")
    for fact in ("p2pnode demo", "4 shards", DRAWN, "7 ms", "10,000", "afterw", "✗"):
        assert fact in text
    for left_out in ("before", "Another?", "5 ms"):
        assert left_out not in text
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")
