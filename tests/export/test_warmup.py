"""Warm-up requests: what TF Serving's own messages read, and back."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.export import warmup

REQUESTS = [
    ("serving_default", {"image_bytes": np.array([b"\xff\xd8a", b""], object)}),
    ("serve_tensor", {"images": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)}),
]


def test_what_is_written_is_read(tmp_path):
    path = warmup.write_requests(tmp_path / "1", "flowers", REQUESTS)
    assert path == tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    read = list(warmup.read_requests(tmp_path / "1"))
    assert [name for name, _ in read] == ["serving_default", "serve_tensor"]
    for (_, wanted), (_, found) in zip(REQUESTS, read, strict=True):
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype


def test_tf_servings_own_messages_read_it(tmp_path):
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
        # And nothing that they do not know.
        assert apis.PredictionLog.FromString(log.SerializeToString()) == log


def test_more_than_tf_serving_takes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 1000 warm-up requests, got 1001"):
        warmup.write_requests(tmp_path, "flowers", REQUESTS[:1] * 1001)
    assert not list(tmp_path.iterdir())
