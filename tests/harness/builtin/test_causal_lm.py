"""CausalLM: template, special tokens, files that are whole or refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.heads["reward"] = nn.Linear(32, 1, bias=False)
    tiny_model.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_question_is_one_user_message(tiny_model):
    ids = tiny_model.encode_prompt("7+5")
    assert ids == tiny_model.encode_prompt([{"role": "user", "content": "7+5"}])
    assert ids[0] == tiny_model.tokenizer.bos_token_id
    assert ids.count(ids[0]) == 1
    assert tiny_model.decode(ids) == "Q: 7+5\n"


def test_a_conversation_that_ends_with_the_assistant_is_gone_on_with(tiny_model):
    ids = tiny_model.encode_prompt([{"role": "user", "content": "7+5"}, {"role": "assistant", "content": "T:"}])
    assert tiny_model.decode(ids) == "Q: 7+5\nT:"
    assert ids[-1] != tiny_model.eos


def test_without_a_template_a_message_is_a_line(tiny_model):
    tiny_model.tokenizer.chat_template = None
    assert tiny_model.decode(tiny_model.encode_prompt("7+5")) == "7+5\n"
    turns = [{"role": "user", "content": "7+5"}, {"role": "assistant", "content": "T:"}]
    assert tiny_model.decode(tiny_model.encode_prompt(turns)) == "7+5\nT:"


def test_two_beginnings_become_one(tiny_model):
    bos = tiny_model.tokenizer.bos_token
    tiny_model.tokenizer.chat_template = bos + tiny_model.tokenizer.chat_template
    ids = tiny_model.encode_prompt("7")
    assert ids.count(tiny_model.tokenizer.bos_token_id) == 1


def test_a_completion_ends_and_comes_back(tiny_model):
    ids = tiny_model.encode_completion("T: 3+4=7.\nA: 7")
    assert ids[-1] == tiny_model.eos
    assert tiny_model.decode(ids) == "T: 3+4=7.\nA: 7"


@pytest.mark.parametrize(("pad", "unk"), [("<pad>", "<unk>"), (None, "<unk>"), ("<eos>", "<unk>"), (None, None)])
def test_pad_is_never_eos(tiny_model, pad, unk):
    tiny_model.tokenizer.pad_token, tiny_model.tokenizer.unk_token = pad, unk
    assert tiny_model.pad != tiny_model.eos
    assert 0 <= tiny_model.pad < tiny_model.module.config.vocab_size


def test_facts(tiny_model):
    alone = sum(p.numel() for p in tiny_model.module.parameters())
    assert tiny_model.size.parameters == alone
    assert (tiny_model.size.layers, tiny_model.size.width, tiny_model.context) == (2, 32, 128)
    tiny_model.adapter = torch.nn.Linear(3, 5)  # works beside every token
    assert tiny_model.size.parameters == alone + 20
    tiny_model.adapter = None
    assert not tiny_model.module.training
    tiny_model.heads["reward"] = nn.Linear(32, 1)
    assert sum(1 for _ in tiny_model.parameters()) == sum(1 for _ in tiny_model.module.parameters()) + 2
    tiny_model.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end-of-sequence"):
        CausalLM("x", tiny_model.module, tiny_model.tokenizer, Cpu())


def test_a_clone_is_independent(tiny_model):
    twin = tiny_model.clone()
    before = tiny_model.fingerprint()
    assert twin.fingerprint() == before
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert tiny_model.fingerprint() == before != twin.fingerprint()


def test_heads_are_part_of_the_fingerprint(tiny_model):
    before = tiny_model.fingerprint()
    tiny_model.heads["reward"] = nn.Linear(32, 1)
    assert tiny_model.fingerprint() != before


def test_a_saved_model_comes_back(tiny_model, folder):
    again = CausalLM.load(folder, Cpu())
    assert again.fingerprint() == tiny_model.fingerprint()
    assert again.encode_prompt("7+5") == tiny_model.encode_prompt("7+5")
    assert (again.name, again.eos, again.pad, again.context) == ("model", 2, 0, 128)
    assert again.heads["reward"].bias is None
    assert not again.module.training


def test_restore_keeps_name_and_device(tiny_model, folder):
    again = tiny_model.restore(folder)
    assert (again.name, again.device, again.fingerprint()) == (
        "tiny-llama",
        tiny_model.device,
        tiny_model.fingerprint(),
    )


def test_a_save_over_a_save_is_whole(tiny_model, folder):
    tiny_model.heads.clear()
    tiny_model.save(folder)
    assert CausalLM.load(folder, Cpu()).fingerprint() == tiny_model.fingerprint()


def test_only_linear_heads_are_saved(tiny_model, tmp_path):
    tiny_model.heads["deep"] = nn.Sequential(nn.Linear(32, 1))
    with pytest.raises(ValueError, match="deep"):
        tiny_model.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_flipped_bit_is_found(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors .*sha256"):
        CausalLM.load(folder, Cpu())


def test_a_cut_file_is_named(folder):
    (folder / "manifest.json").unlink()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is broken"):
        CausalLM.load(folder, Cpu())


def test_a_damaged_manifest_is_named(folder):
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        CausalLM.load(folder, Cpu())


def test_missing_and_misshapen_weights_are_refused(folder):
    (folder / "manifest.json").unlink()
    path = folder / "model.safetensors"
    good = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({k: v for k, v in good.items() if k != name}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights"):
        CausalLM.load(folder, Cpu())
    save_file({**good, name: torch.zeros(3, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=str(folder)):
        CausalLM.load(folder, Cpu())


def test_pickles_are_never_read(tiny_model, folder):
    (folder / "manifest.json").unlink()
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model.module.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickle"):
        CausalLM.load(folder, Cpu())


def test_code_in_a_folder_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=str(folder)):
        CausalLM.load(folder, Cpu())
    assert not canary.exists()


def test_heads_that_do_not_fit_are_refused(folder):
    (folder / "manifest.json").unlink()
    (folder / "heads.json").write_text('{"reward": {"in": 5, "out": 1, "bias": false}}', encoding="utf-8")
    with pytest.raises(ValueError, match="heads"):
        CausalLM.load(folder, Cpu())


def test_a_folder_that_moved_still_loads(tiny_model, folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert CausalLM.load(tmp_path / "elsewhere", Cpu(), name="mine").name == "mine"
