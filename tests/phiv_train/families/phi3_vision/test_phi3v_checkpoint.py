"""The official layout in and out: every tensor accounted for, nothing half written, clear sentences otherwise."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from phi3v_samples import packed, toy, toy_model
from safetensors.torch import load_file, save_file

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.families import phi3_vision
from phiv_train.families.phi3_vision.checkpoint import (
    EMBEDDING,
    EMBEDDING_ALIAS,
    expected_shapes,
    load,
    save,
    tensor_shapes,
)
from phiv_train.families.phi3_vision.config import from_plain
from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration
from phiv_train.families.tiny import build_tiny, tiny_processor


def documented_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of Phi-3.5-vision-instruct, written out from the documented list."""
    hidden, mlp, vocab, clip = 3072, 8192, 32064, 1024
    image = "model.vision_embed_tokens."
    vision = f"{image}img_processor.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
        f"{image}glb_GN": (1, 1, 4096),
        f"{image}sub_GN": (1, 1, 1, 4096),
        f"{image}img_projection.0.weight": (hidden, 4096),
        f"{image}img_projection.0.bias": (hidden,),
        f"{image}img_projection.2.weight": (hidden, hidden),
        f"{image}img_projection.2.bias": (hidden,),
        f"{vision}embeddings.class_embedding": (clip,),
        f"{vision}embeddings.patch_embedding.weight": (clip, 3, 14, 14),
        f"{vision}embeddings.position_embedding.weight": (577, clip),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{vision}{name}.weight": (clip,), f"{vision}{name}.bias": (clip,)}
    for i in range(32):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.qkv_proj.weight": (3 * hidden, hidden),
            f"{layer}self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}mlp.gate_up_proj.weight": (2 * mlp, hidden),
            f"{layer}mlp.down_proj.weight": (hidden, mlp),
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}post_attention_layernorm.weight": (hidden,),
        }
    for i in range(24):
        layer = f"{vision}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}self_attn.{name}.weight": (clip, clip), f"{layer}self_attn.{name}.bias": (clip,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.weight": (clip,), f"{layer}{name}.bias": (clip,)}
        shapes |= {f"{layer}mlp.fc1.weight": (4096, clip), f"{layer}mlp.fc1.bias": (4096,)}
        shapes |= {f"{layer}mlp.fc2.weight": (clip, 4096), f"{layer}mlp.fc2.bias": (clip,)}
    return shapes


def test_the_real_model_has_the_documented_tensors(shared: Path) -> None:
    config = from_plain(json.loads((shared / "phi-3.5-vision" / "config.json").read_text()))
    shapes = expected_shapes(config)
    assert shapes == documented_shapes()
    assert len(shapes) == 592
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 4_146_621_440


def test_the_real_config_is_written_back_as_it_came(shared: Path) -> None:
    official = json.loads((shared / "phi-3.5-vision" / "config.json").read_text())
    written = json.loads(from_plain(official).to_json_string())
    machine = {"_name_or_path", "_attn_implementation", "auto_map", "transformers_version"}
    assert {k: v for k, v in written.items() if k not in machine} == {
        k: v for k, v in official.items() if k not in machine
    }
    # Relative pointers would need code files in the folder; servers find these on the hub.
    assert written["auto_map"] == {
        k: f"microsoft/Phi-3.5-vision-instruct--{v}" for k, v in official["auto_map"].items()
    }


@pytest.fixture(scope="module")
def model() -> Any:
    return toy_model("sdpa", torch.float32)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """A saved toy checkpoint in several shards."""
    save(model, tmp_path / "toy", tiny_processor(), max_shard_size="200KB")
    return tmp_path / "toy"


def logits(model: Any) -> torch.Tensor:
    sample = toy(model, [(1, 2), (1, 1)], [4, 3, 9], 1)
    with torch.no_grad():
        out: torch.Tensor = model.eval()(**packed([sample])).logits
    return out


def test_save_then_load_gives_the_same_logits(model: Any, folder: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    loaded = load(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.state_dict().keys() == model.state_dict().keys() == tensor_shapes(folder).keys()
    assert {n for n, p in loaded.named_parameters() if not p.requires_grad} == {
        n for n, p in model.named_parameters() if not p.requires_grad
    }
    assert not loaded.training


def test_a_saved_folder_has_what_servers_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["Phi3VForCausalLM"], "phi3_v")
    assert config["rope_scaling"]["type"] == "su"
    assert config["torch_dtype"] == "float32"
    assert "rope_parameters" not in config
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(tiny_processor().stop_ids)
    assert {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_plain_save_pretrained_of_a_trained_model_and_back(dtype: str, tmp_path: Path) -> None:
    model = toy_model("sdpa", torch.float32)
    model.train()
    model(**packed([toy(model, [(1, 1)], [4, 8], 1)])).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    again = Phi3VForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(logits(again), logits(model))
    assert not again.model.vision_embed_tokens.clip.post_layernorm.weight.requires_grad
    assert torch.equal(logits(load(tmp_path, dtype=dtype)), logits(model))


def test_the_original_files_load(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden"
    config, clip = (json.loads((golden / name).read_text()) for name in ("config.json", "clip_config.json"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"vision_config": clip}))
    shutil.copyfile(golden / "weights.safetensors", tmp_path / "model.safetensors")
    loaded = load(tmp_path, attn_implementation="eager")
    built = phi3_vision.build_model(config, load_file(golden / "weights.safetensors"), clip)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, built(ids).logits)
    save(loaded, tmp_path / "again")
    theirs, ours = load_file(golden / "weights.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_generation_stops_on_end_and_endoftext_of_the_real_vocabulary(tmp_path: Path) -> None:
    model = toy_model("sdpa", torch.float32, vocab_size=32064, image_token_id=32044, pad_token_id=32000)
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32000}')
    loaded = load(tmp_path)
    prompt = torch.tensor([[5, 6]])
    for stop in (32007, 32000):
        with torch.no_grad():
            hidden = loaded(prompt, skip_logits=True).last_hidden_state[0, -1]
            loaded.lm_head.weight.zero_()
            loaded.lm_head.weight[stop] = hidden  # now the likeliest next token
        assert loaded.generate(prompt, max_new_tokens=5, do_sample=False).tolist() == [[5, 6, stop]]


@pytest.mark.parametrize("both", [False, True])
def test_the_second_name_of_the_embedding_is_understood(model: Any, tmp_path: Path, both: bool) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[EMBEDDING_ALIAS] = tensors[EMBEDDING].clone()
    if not both:
        del tensors[EMBEDDING]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(logits(load(tmp_path)), logits(model))
    plain = json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(logits(phi3_vision.build_model(plain, tensors, None, "sdpa")), logits(model))


def without(*names: str, **extra: torch.Tensor) -> Callable[[Path], None]:
    """A change to the tensors of a folder with one weight file."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if name not in names} | extra
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return apply


def containing(name: str, content: bytes | None) -> Callable[[Path], None]:
    """One file with other content, or removed."""

    def apply(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return apply


ONE = torch.ones(1)
BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "missing",
        without("lm_head.weight", "model.norm.weight"),
        "2 tensors missing ('lm_head.weight', 'model.norm.weight')",
    ),
    ("unexpected", without(extra=ONE), "1 tensors unexpected ('extra')"),
    (
        "shape",
        without(**{"lm_head.weight": torch.ones(2, 64)}),
        "1 tensors of the wrong shape ('lm_head.weight' is [2, 64], expected [640, 64])",
    ),
    (
        "several",
        without("lm_head.weight", extra=ONE),
        "1 tensors missing ('lm_head.weight'), 1 tensors unexpected ('extra')",
    ),
    ("cut", containing("model.safetensors", b"\x08" * 20), "not a whole safetensors file"),
    ("none", containing("model.safetensors", None), "no model.safetensors or its index (found: config.json"),
    ("config", containing("config.json", None), "config.json: is missing"),
    ("json", containing("config.json", b"{"), "config.json: is not a JSON object"),
    ("deep", containing("config.json", b"[" * 100_000), "config.json: is not a JSON object (it is nested too deeply)"),
    ("type", containing("config.json", b'{"model_type": "phi3"}'), "model_type is 'phi3'"),
]


@pytest.mark.parametrize(("name", "breaks", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_checkpoint_is_one_line(
    model: Any, tmp_path: Path, name: str, breaks: Callable[[Path], None], message: str
) -> None:
    model.save_pretrained(tmp_path)
    breaks(tmp_path)
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    (folder / sorted(p.name for p in folder.glob("model-*"))[1]).unlink()
    with pytest.raises(UsageError, match=r"index\.json: names files that are not there \(model-00002-of-"):
        load(folder)


def test_build_model_names_what_is_wrong(model: Any) -> None:
    plain = json.loads(model.config.to_json_string())
    tensors = dict(model.state_dict())
    tensors["model.norm.weights"] = tensors.pop("model.norm.weight")
    with pytest.raises(
        UsageError, match=r"missing \('model.norm.weight'\), 1 tensors unexpected \('model.norm.weights'"
    ):
        phi3_vision.build_model(plain, tensors)


def test_a_path_that_is_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder, and not a hub id"):
        load(tmp_path / "nowhere")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("connection refused\nmore lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        EnvironmentProblem, match=r"owner/name: no such folder.*connection refused\).* local folder; the model tiny"
    ):
        load("owner/name")


def test_a_save_that_fails_leaves_the_old_checkpoint(model: Any, folder: Path) -> None:
    class Broken:
        stop_ids = (3, 4)

        def save(self, _: Path) -> None:
            raise RuntimeError("disk gone")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(RuntimeError, match="disk gone"):
        save(model, folder, Broken())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_weights_and_keeps_other_files(model: Any, folder: Path) -> None:
    (folder / "trainer_state.json").write_text("{}")
    save(model, folder, tiny_processor())
    names = {p.name for p in folder.iterdir()}
    assert "model.safetensors" in names
    assert not any("-of-" in name or "index" in name for name in names)
    assert "trainer_state.json" in names
    assert torch.equal(logits(load(folder)), logits(model))


def test_four_bit_reaches_the_decoder_only(model: Any, folder: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    quantised = load(folder, dtype="bfloat16", quantization="4bit")
    names = {n for n, m in quantised.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert names == set(phi3_vision.FAMILY.components(quantised)["language"].linear)
    assert torch.isfinite(logits(quantised)).all()
    spared = load(
        folder,
        dtype="bfloat16",
        quantization="4bit",
        skip_4bit=("lm_head", "model.vision_embed_tokens", "model.layers.0"),
    )
    assert {n for n, m in spared.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)} == {
        n for n in names if ".layers.1." in n
    }
    with pytest.raises(UsageError, match="4-bit weights is not a checkpoint"):
        save(quantised, folder.parent / "no")


def test_what_is_no_checkpoint_is_not_saved_as_one(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(toy_model("sdpa"), peft.LoraConfig(target_modules=["lm_head"], r=2))
    with pytest.raises(UsageError, match="a PeftModel cannot be saved as a checkpoint"):
        save(wrapped, tmp_path / "no")
    with pytest.raises(UsageError, match="unmerged adapters"):
        save(wrapped.base_model.model, tmp_path / "no")
    save(wrapped.merge_and_unload(), tmp_path / "yes")
    assert tensor_shapes(tmp_path / "yes") == expected_shapes(toy_model("sdpa").config)


def test_family_loads_what_it_saves(model: Any, tmp_path: Path) -> None:
    family = phi3_vision.FAMILY
    family.save(model, tiny_processor(), tmp_path / "toy")
    loaded, processor = family.load(str(tmp_path / "toy"), image_options={"num_crops": 3})
    assert torch.equal(logits(loaded), logits(model))
    assert processor.num_crops == 3
    assert loaded.generation_config.eos_token_id == list(processor.stop_ids)


def test_a_folder_with_an_old_and_a_new_checkpoint_is_refused(tmp_path: Path) -> None:
    """Plain save_pretrained leaves both; transformers and we would read different ones."""
    build_tiny(0)[0].save_pretrained(tmp_path)
    build_tiny(1)[0].save_pretrained(tmp_path, max_shard_size="300KB")
    with pytest.raises(UsageError, match=r"holds both model\.safetensors and an index of shards"):
        load(tmp_path)


def test_saving_again_in_another_shape_replaces_the_old_weights(tmp_path: Path) -> None:
    old, new = build_tiny(0)[0], build_tiny(1)[0]
    (tmp_path / "trainer_state.json").write_text("mine")
    save(old, tmp_path, max_shard_size="300KB")
    save(new, tmp_path)
    loaded = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), new.parameters(), strict=True))
    assert (tmp_path / "trainer_state.json").read_text() == "mine"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".phiv-tmp-")]


def test_saving_through_a_link_writes_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(build_tiny(0)[0], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").is_file()


def test_a_mount_point_takes_a_checkpoint(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        save(build_tiny(0)[0], tmp_path)
        load(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[1]", r"config\.json: is not a JSON object \(found list\)"),
        ("config.json", '{"model_type": "phi3_v", "hidden_size": "x"}', r"config\.json: "),
        ("model.safetensors.index.json", "{}", r"index\.json: is no index of shards"),
        ("model.safetensors.index.json", '{"weight_map": ', r"index\.json: is not a JSON object"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    save(build_tiny(0)[0], tmp_path, max_shard_size="300KB")
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "floaty"}, "dtype: no such torch dtype 'floaty'"),
        (
            {"attn_implementation": "sdp"},
            r"attn_implementation: unknown 'sdp'\. Use one of eager, sdpa,",
        ),
        ({"quantization": "8bit"}, "quantization: unknown '8bit'"),
    ],
)
def test_unknown_options_are_named(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    save(build_tiny(0)[0], tmp_path)
    with pytest.raises(UsageError, match=message):
        load(tmp_path, **option)
