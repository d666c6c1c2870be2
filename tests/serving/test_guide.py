"""The files that the serving guide ships, read as TensorFlow Serving and Docker read them."""

import re

import pytest
from conftest import ROOT
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

FOLDER = ROOT / "saved_models"
GUIDE = (FOLDER / "README.md").read_text()
# The fields of tensorflow.serving.BatchingParameters (session_bundle_config.proto), which
# tensorflow-serving-api leaves out: name -> (number, type).
OPTIONAL_INT = ".google.protobuf.Int64Value"
BATCHING = {
    "max_batch_size": (1, OPTIONAL_INT),
    "batch_timeout_micros": (2, OPTIONAL_INT),
    "max_enqueued_batches": (3, OPTIONAL_INT),
    "num_batch_threads": (4, OPTIONAL_INT),
    "thread_pool_name": (5, ".google.protobuf.StringValue"),
    "allowed_batch_sizes": (6, None),
    "pad_variable_length_inputs": (7, None),
}


def _compose() -> dict:
    yaml = pytest.importorskip("yaml", reason="needs the extra test")
    return yaml.safe_load((FOLDER / "docker-compose.yaml").read_text())["services"]["serving"]


def test_the_models_are_a_server_config():
    text = (FOLDER / "models.config").read_text()
    found = text_format.Parse(
        text, model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config
    assert [(model.name, model.base_path) for model in found] == [
        ("quickstart", "/models/quickstart")
    ]
    assert {model.model_platform for model in found} == {"tensorflow"}
    assert found[0].model_version_policy.latest.num_versions == 1
    # What the comment offers is a policy, too.
    (offered,) = re.findall(r"# (model_version_policy .*)", text)
    assert text_format.Parse(offered, model_server_config_pb2.ModelConfig()).HasField(
        "model_version_policy"
    )


def test_the_batching_parameters_are_what_the_server_allows():
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="here",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, (number, kind) in BATCHING.items():
        field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
        if kind:
            field.type, field.type_name = kinds.TYPE_MESSAGE, kind
    message.field[5].type, message.field[5].label = kinds.TYPE_INT64, kinds.LABEL_REPEATED
    message.field[6].type = kinds.TYPE_BOOL
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("here.BatchingParameters"))
    found = text_format.Parse((FOLDER / "batching_parameters.txt").read_text(), kind())
    sizes = list(found.allowed_batch_sizes)
    # The server's own conditions: rising, and the last one is the greatest batch.
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == found.max_batch_size.value
    assert found.num_batch_threads.value >= 1
    assert found.max_enqueued_batches.value >= 1


def test_the_compose_file_starts_the_server_with_the_files_that_are_here():
    serving = _compose()
    assert serving["volumes"] == [".:/models:ro"]
    text = (FOLDER / "docker-compose.yaml").read_text()
    files = re.findall(r"_file=/models/(\S+)", text)
    assert len(files) == 2
    assert all((FOLDER / file).is_file() for file in files)
    assert any("--model_config_file=" in argument for argument in serving["command"])
    assert {"127.0.0.1:8500:8500", "127.0.0.1:8501:8501"} == set(serving["ports"])
    assert all(argument.startswith("--") for argument in serving["command"])
    # One version in file and guide.
    assert set(re.findall(r"tensorflow/serving:([\d.]+\d)", GUIDE)) == {"2.20.0"}
    assert serving["image"] == "tensorflow/serving:2.20.0"


def test_the_guide_links_to_what_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", GUIDE) if "://" not in link]
    assert len(links) >= 5
    assert [link for link in links if not (FOLDER / link).exists()] == []
