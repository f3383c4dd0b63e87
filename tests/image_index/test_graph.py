"""The graph against brute force: recall, updates, damage."""

import numpy as np
import pytest

graph_module = pytest.importorskip("degla.image_index.graph")
pytest.importorskip("usearch", reason="the extra search is not installed")

from degla.image_index.graph import (  # noqa: E402
    DamagedGraph,
    measure_recall,
    new_graph,
    open_graph,
    save_graph,
    search_graph,
    set_expansion,
    tune,
    update_graph,
)


def unit(count, dim=16, seed=0):
    features = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def keys_of(count):
    return np.arange(count, dtype=np.uint64) * 7 + 3


def test_hits_are_the_nearest_with_their_cosines():
    features = unit(500)
    graph = update_graph(new_graph(16), keys_of(500), features)
    query = unit(1, seed=5)[0]
    found = search_graph(graph, query, 10)
    order = np.argsort(-(features @ query))[:10]
    assert [match.key for match in found] == keys_of(500)[order].tolist()
    np.testing.assert_allclose([match.score for match in found], (features @ query)[order], atol=1e-6)
    assert len(search_graph(graph, query, 1000)) == 500


def test_recall_falls_where_the_graph_misses_images():
    features = unit(400)
    graph = update_graph(new_graph(16), keys_of(400)[:200], features[:200])  # half of the images
    recall = measure_recall(graph, features, unit(50, seed=1))
    assert 0.4 < recall < 0.6
    assert measure_recall(update_graph(graph, keys_of(400), features), features, unit(50, seed=1)) >= 0.99


def test_copies_of_an_image_are_interchangeable():
    features = np.repeat(unit(2), 30, axis=0)
    graph = update_graph(new_graph(16), keys_of(60), features)
    assert measure_recall(graph, features, features[:1]) == 1.0


def test_a_search_gets_more_candidates_until_the_recall_is_high(caplog):
    features = unit(3000, dim=64)  # random directions are the hardest case for a graph
    graph = update_graph(new_graph(64), keys_of(3000), features)
    set_expansion(graph, 10)
    assert measure_recall(graph, features, unit(50, dim=64, seed=1)) < 0.99
    recalls = tune(graph, features, [unit(50, dim=64, seed=1), features[:20]])
    assert min(recalls) >= 0.99 and graph.expansion_search >= 128 and not caplog.text


@pytest.mark.parametrize("removed", [10, 150])  # few leave gaps, many lead to a new graph
def test_removed_images_are_not_found_again(removed):
    features = unit(300)
    graph = update_graph(new_graph(16), keys_of(300), features)
    graph = update_graph(graph, keys_of(300)[removed:], features[removed:])
    found = {match.key for match in search_graph(graph, features[0], 300)}
    assert len(graph) == 300 - removed and found == set(keys_of(300)[removed:].tolist())
    again = update_graph(graph, keys_of(300), features)
    assert search_graph(again, features[0], 1)[0].key == 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "count"])
def test_a_damaged_graph_is_refused(tmp_path, damage):
    features = unit(50)
    record = save_graph(update_graph(new_graph(16), keys_of(50), features), tmp_path, 128)
    assert len(open_graph(tmp_path, record, 16, 50)) == 50
    path, count = tmp_path / record.file, 50
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[200] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-10])
    elif damage == "delete":
        path.unlink()
    else:
        count = 51
    with pytest.raises(DamagedGraph):
        open_graph(tmp_path, record, 16, count)
