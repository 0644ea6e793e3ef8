from __future__ import annotations

import torch

from anomaly_suite.nn.snippet_classifier import SnippetClassifier


def test_scores_are_sigmoids_of_linear_layers_in_float32() -> None:
    net = SnippetClassifier(feature_dim=5, hidden=(4, 3)).eval()
    features = torch.randn(2, 3, 7, 5)
    first, second, last = (layer for layer in net.layers if isinstance(layer, torch.nn.Linear))
    expected = last(second(first(features).relu()).relu()).squeeze(-1).sigmoid()
    torch.testing.assert_close(net(features), expected)
    assert net(features).shape == (2, 3, 7)
    assert net.bfloat16()(features.bfloat16()).dtype == torch.float32


def test_hidden_values_are_dropped_in_training_alone() -> None:
    net, features = SnippetClassifier(feature_dim=5, dropout=0.5), torch.randn(4, 5)
    assert not torch.equal(net(features), net(features))
    net.eval()
    assert torch.equal(net(features), net(features))


def test_without_hidden_layers_it_is_one_linear_layer() -> None:
    net = SnippetClassifier(feature_dim=5, hidden=())
    assert [type(layer) for layer in net.layers] == [torch.nn.Linear]
    assert sum(weight.numel() for weight in net.parameters()) == 6
