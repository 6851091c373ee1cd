"""Warm-up requests: TF Serving's own messages read what an export writes."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.export import warmup

REQUESTS = [
    ("serving_default", {"image_bytes": np.array([b"\xff\xd8a", b""], object)}),
    ("serve_tensor", {"images": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)}),
]


def test_requests_round_trip(tmp_path):
    path = warmup.write_requests(tmp_path / "1", "flowers", REQUESTS)
    assert path == tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    requests = list(warmup.read_requests(tmp_path / "1"))
    assert [name for name, _ in requests] == ["serving_default", "serve_tensor"]
    for (_, expected), (_, inputs) in zip(REQUESTS, requests, strict=True):
        assert inputs.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(inputs[name], value)
            assert inputs[name].dtype == value.dtype


def test_tf_servings_own_messages_read_the_file(tmp_path):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = warmup.write_requests(tmp_path, "flowers", REQUESTS)
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    logs = [apis.PredictionLog.FromString(record) for record in records]
    for log, (signature, inputs) in zip(logs, REQUESTS, strict=True):
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "flowers"
        assert request.model_spec.signature_name == signature
        for name, value in inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), value)
        assert apis.PredictionLog.FromString(log.SerializeToString()) == log


def test_more_requests_than_tf_serving_accepts_raises(tmp_path):
    with pytest.raises(ValueError, match="at most 1000 warm-up requests, got 1001"):
        warmup.write_requests(tmp_path, "flowers", REQUESTS[:1] * 1001)
    assert not list(tmp_path.iterdir())
