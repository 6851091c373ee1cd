"""Edits of models.config change what they should, and keep the rest of the text."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import REPOSITORY

pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from noah_tf.serving.models_config import ModelsConfig, ServedVersions

pytestmark = pytest.mark.one_stack

SHIPPED = (REPOSITORY / "saved_models" / "models.config").read_text()
TWO_MODELS = """# config { a comment }
model_config_list: {
  config: {
    name: "other } # no brace"  base_path: '/models/other'
    model_version_policy { specific { versions: 1 } }
    version_labels { key: 'stable' value: 1 }
  }
  config {
    name: "digits" base_path: "/models/digits" # versions: 9
    model_version_policy { specific { versions: 1, versions: 3; } }
  }
}
"""


def config_of(tmp_path, text, model="digits"):
    path = tmp_path / "models.config"
    path.write_text(text)
    return ModelsConfig(path, model)


def test_a_version_and_a_label_change_only_their_lines(tmp_path):
    config = config_of(tmp_path, SHIPPED)
    assert config.read() == ServedVersions((1,), {"stable": 1, "canary": 1})
    config.write(config.read().with_version(2))
    config.write(config.read().with_label("canary", 2))
    assert config.path.read_text() == SHIPPED.replace(
        "        versions: 1\n", "        versions: 1\n        versions: 2\n"
    ).replace('key: "canary" value: 1', 'key: "canary" value: 2')
    config.write(config.read().with_label("next", 2))
    assert '\n    version_labels { key: "next" value: 2 }\n' in config.path.read_text()
    config.write(config.read().with_label("next", None).with_label("canary", 1))
    config.write(config.read().without_version(2))
    assert config.path.read_text() == SHIPPED


def test_only_the_named_model_changes(tmp_path):
    config = config_of(tmp_path, TWO_MODELS)
    config.write(config.read().with_version(4).with_label("stable", 4))
    assert config.read() == ServedVersions((1, 3, 4), {"stable": 4})
    assert ModelsConfig(config.path, "other } # no brace").read() == ServedVersions(
        (1,), {"stable": 1}
    )
    config.write(config.read().without_version(1))
    config.write(config.read().with_label("stable", None).without_version(4))
    assert config.read() == ServedVersions((3,), {})
    assert config.path.read_text().startswith("# config { a comment }")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 5), min_size=1), min_size=1, max_size=4),
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)), min_size=4, max_size=4),
    st.sampled_from([SHIPPED, TWO_MODELS]),
)
def test_any_sequence_of_edits_is_what_was_asked_for(tmp_path_factory, sets, labels, text):
    config = config_of(tmp_path_factory.mktemp("config"), text)
    for versions, wanted_labels in zip(sets, labels, strict=False):
        before = config.read().versions
        order = [v for v in before if v in versions] + sorted(versions - set(before))
        # A version stays until its successor is there.
        wanted = ServedVersions(tuple(order), wanted_labels)
        config.write(wanted)
        assert config.read() == wanted
    message = text_format.Parse(
        config.path.read_text(), model_server_config_pb2.ModelServerConfig()
    )
    bases = [entry.base_path for entry in message.model_config_list.config]
    assert bases == [b for b in ("/models/other", "/models/digits") if b in text]


def test_the_file_is_replaced_by_one_rename_and_keeps_its_mode(tmp_path, monkeypatch):
    config = config_of(tmp_path, SHIPPED)
    config.path.chmod(0o640)
    (tmp_path / "link").symlink_to(config.path)
    renames = []
    replace = os.replace

    def record(source, target):
        renames.append(target)
        assert config.path.read_text() == SHIPPED
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    linked = ModelsConfig(tmp_path / "link", "digits")
    linked.write(linked.read().with_version(2))
    assert renames == [config.path]
    assert config.read().versions == (1, 2)
    assert config.path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "models.config"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list { confg {} }", "is not a configuration of TF Serving .*confg"),
        ("model_config_list { config { name: 'x' } }", "has no model 'digits', got x"),
        ("", "has no model 'digits', got none"),
        (
            "model_config_list { config { name: 'digits' } }",
            "chooses the versions of digits itself, .* add the block",
        ),
    ],
)
def test_a_file_that_cannot_be_rolled_out_raises(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, text)


def test_a_layout_that_cannot_be_edited_raises_and_stays(tmp_path):
    text = (
        "model_config_list < config < name: 'digits' "
        "model_version_policy < specific < versions: [1] > > > >"
    )
    config = config_of(tmp_path, text)
    with pytest.raises(ValueError, match="cannot be edited, because its layout"):
        config.write(config.read().with_version(2))
    assert config.path.read_text() == text


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*no.config"):
        ModelsConfig(tmp_path / "no.config", "digits")
