"""Every kind of damage to a pipeline's folder is told in one line, or does no harm."""

import json
import shutil

import pytest
import torch

from bigain.backbones import DiT, StableDiffusion, build_sampler
from bigain.errors import BiGainError
from tests.tiny_pipelines import dit, stable_diffusion

TEXTS = ("", "[]", "5", "null", '"x"', "{", "{}", "[{}]", "\x00\xff")
VALUES: tuple[object, ...] = (None, "x", -1, 0, 1.5, 10**6, 10**12, [], [1], {})
KINDS = {"dit": DiT, "sd": StableDiffusion}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {"dit": dit(root / "dit", classes=10), "sd": stable_diffusion(root / "sd")}


def problem(kind: str, folder) -> str | None:
    """What is said of a folder, in one line; None if it can be used."""
    backbone = KINDS[kind](str(folder))
    try:
        backbone.skeleton()
        schedule = backbone.identity()["scheduler"]
        backbone.load(torch.device("cpu"), torch.float32)
        build_sampler("ddim", schedule, 5, "trailing", "cpu")
    except BiGainError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def configs(folder):
    found = sorted(folder.rglob("*.json"))
    return [path for path in found if path.name != "model_index.json" and path.name != "vocab.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_json_of_another_kind_is_named(kind, folders, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    for path in configs(folder):
        if path.parent.name == "tokenizer":
            continue
        whole = path.read_bytes()
        for text in TEXTS:
            path.write_text(text, encoding="latin-1")
            said = problem(kind, folder)
            if text != "{}":  # all of whose settings are defaults
                assert said and path.parent.name in said, (path, text, said)
        path.write_bytes(whole)
    assert problem(kind, folder) is None


# a share of all pairs of settings and values, so that every value meets settings of every file
@pytest.mark.parametrize(("kind", "share"), [("dit", 5), ("sd", 12)])
@pytest.mark.filterwarnings("ignore")
def test_settings_of_other_types_or_sizes_are_one_line(kind, share, folders, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    tried = refused = 0
    for place, path in enumerate(p for p in configs(folder) if p.parent.name != "tokenizer"):
        whole = path.read_text()
        settings = json.loads(whole)
        keys = [key for key in settings if not key.startswith("_")]
        for i, key in enumerate(keys):
            for value in VALUES[(i + place) % share :: share]:
                path.write_text(json.dumps({**settings, key: value}))
                tried += 1
                refused += problem(kind, folder) is not None
        path.write_text(whole)
    assert tried > 80 and refused > tried / 3


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer/config.json", {"num_layers": 10**6}, "num_layers=1000000, and no model has"),
        ("transformer/config.json", {"sample_size": 10**5}, "more than 1024"),
        ("transformer/config.json", {"norm_eps": "x"}, "norm_eps must be"),
        ("transformer/config.json", {"attention_head_dim": 2**20}, "weights hold .* bytes"),
        ("vae/config.json", {"layers_per_block": 10**6}, "layers_per_block=1000000"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor must be a number"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor must not be 0"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "x"}, "one of leading, linspace"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "there must be 1000"),
        ("scheduler/scheduler_config.json", {"trained_betas": []}, "there must be 1000"),
        ("scheduler/scheduler_config.json", {"beta_end": -1}, "do not form a noise schedule"),
        ("scheduler/scheduler_config.json", {"clip_sample_range": "x"}, "must be a number"),
        ("scheduler/scheduler_config.json", {"clip_sample": "no"}, "must be true or false"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "at most 1000000"),
    ],
)
def test_what_is_impossible_is_refused_with_its_bound(folders, tmp_path, file, change, message):
    folder = shutil.copytree(folders["dit"], tmp_path / "copy")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BiGainError, match=message):
        DiT(str(folder)).skeleton()
        DiT(str(folder)).load(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_cut_anywhere_are_named(kind, folders, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    for path in sorted(folder.rglob("*.safetensors")):
        whole = path.read_bytes()
        cuts = [whole[:n] for n in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1)]
        for content in (*cuts, b"\xff" * 8 + whole[8:]):
            path.write_bytes(content)
            assert path.parent.name in (problem(kind, folder) or "")
        path.write_bytes(whole)


@pytest.mark.parametrize("index", [None, [], {}, 5, "x", True, [None, None]])
def test_an_index_of_another_kind_names_no_component(index, folders, tmp_path):
    folder = shutil.copytree(folders["dit"], tmp_path / "copy")
    shutil.rmtree(folder / "vae")
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vae": index}))
    assert not DiT(str(folder)).checkpoint.has("vae")


def test_a_folder_of_variants_alone_names_them(folders, tmp_path):
    folder = shutil.copytree(folders["dit"], tmp_path / "copy") / "transformer"
    (weights,) = folder.glob("*.safetensors")
    weights.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(BiGainError, match=r"holds only the variant fp16 of its weights.*variant="):
        DiT(str(folder.parent)).identity()
