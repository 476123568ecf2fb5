"""One's own model: a folder, or an id on the hub."""

from harness.builtin.devices import Cpu
from harness.builtin.models import find_model


def test_a_folder_is_loaded_and_its_revision_follows_its_files(tmp_path, tiny_model):
    tiny_model.save(tmp_path / "mine")
    spec = find_model(str(tmp_path / "mine"))
    assert spec.load(Cpu()).fingerprint() == tiny_model.fingerprint()
    first = spec.revision()
    next(tiny_model.parameters()).data += 1
    tiny_model.save(tmp_path / "mine")
    assert spec.revision() != first


def test_names_and_hub_ids(tmp_path):
    assert find_model("tiny") is None
    assert find_model(str(tmp_path / "none")) is None
    assert find_model("owner/name@main").revision() == "owner/name@main"
