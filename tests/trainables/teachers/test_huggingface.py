"""Specification of `trainables.teachers.huggingface`: a real transformers model, saved to a folder, teaches."""

import importlib.util
import json
import os

import pytest
import torch

from search_spaces import KdnasError
from trainables.opaque import params_of
from trainables.teachers import HuggingFaceTeacher, build_teacher, check_taps

transformers = pytest.importorskip("transformers")
NAMES = [str(name) for name in range(10)]


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        transformers.utils.logging.disable_progress_bar()
        yield


def vit(folder, **options):
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                "image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}  # fmt: skip
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**{**settings, **options})).eval()
    model.save_pretrained(folder)
    return model


def resnet(folder, **options):
    torch.manual_seed(0)
    settings = {"num_channels": 3, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**settings, **({"num_labels": 10} | options))
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(folder)
    return model


def refused(settings, data) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        build_teacher(settings, data)
    assert caught.value.remedy
    return caught.value


def test_vision_transformer_answers_and_its_tokens_are_a_map(tmp_path, data, normalise, get):
    model = vit(tmp_path / "vit")
    settings = HuggingFaceTeacher(
        str(tmp_path / "vit"), taps={"stage1": "vit.layers.0", "penultimate": "vit.layernorm"}
    )
    teacher, said = get(settings)
    images = normalise(torch.from_numpy(data.validation.images[:70]))  # more than are asked at a time
    with torch.no_grad():
        expected = model(images).logits
        logits, seen = teacher.model.forward_taps(images, ("stage1",))
        hidden = model(images, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(teacher.model(images), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen["stage1"][:, :, 1, 2], hidden[:, 1 + 4 * 1 + 2], atol=1e-5, rtol=1e-4)
    shapes = check_taps(teacher.model, data.shape, ["stage1", "penultimate"])
    assert shapes == {"stage1": (16, 4, 4), "penultimate": (16,)}
    assert params_of(teacher.model) == sum(part.numel() for part in model.parameters())
    assert "class names are not known" in said[0]  # LABEL_0, LABEL_1, …
    assert get(settings)[0].digest == teacher.digest


def test_classes_are_matched_by_the_names_in_id2label(tmp_path, data, normalise, get):
    model = resnet(tmp_path / "net", id2label=dict(enumerate(NAMES[::-1])))
    teacher, said = get(HuggingFaceTeacher(str(tmp_path / "net")))
    images = normalise(torch.from_numpy(data.validation.images[:5]))
    with torch.no_grad():
        expected = model(images.expand(-1, 3, -1, -1)).logits.flip(1)
    torch.testing.assert_close(teacher.model(images), expected, atol=1e-5, rtol=1e-4)
    assert "10 of the task's 10 classes are matched" in said[0]
    resnet(tmp_path / "more", num_labels=3, id2label={0: "7", 1: "zebra", 2: "3"})
    _, said = get(HuggingFaceTeacher(str(tmp_path / "more")))
    assert "2 of the task's 10 classes are matched" in said[0]
    assert "(zebra)" in said[0]


def test_images_get_the_models_size_channels_and_normalisation(tmp_path, data, normalise):
    model = vit(tmp_path / "big", image_size=16, patch_size=4, num_channels=3)
    preprocessor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "big" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    teacher = build_teacher(HuggingFaceTeacher(str(tmp_path / "big")), data)
    pixels = torch.from_numpy(data.validation.images[:5])
    wide = torch.nn.functional.interpolate(
        pixels.float().expand(-1, 3, -1, -1) / 255, (16, 16), mode="bilinear", antialias=True
    )
    mean, std = (torch.tensor(preprocessor[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = model((wide - mean) / std).logits
        torch.testing.assert_close(teacher(normalise(pixels)), expected, atol=1e-5, rtol=1e-4)


def test_convolutional_model_is_tapped_and_its_pooled_features_are_a_vector(tmp_path, data):
    resnet(tmp_path / "net")
    taps = {"stage2": "resnet.encoder.stages.1", "penultimate": "resnet.pooler"}
    model = build_teacher(HuggingFaceTeacher(str(tmp_path / "net"), taps=taps), data)
    shapes = check_taps(model, data.shape, list(taps))
    assert shapes["penultimate"] == (8,)
    assert shapes["stage2"] == (8, 1, 1)


def test_folder_is_kept_as_an_absolute_path(tmp_path, monkeypatch):
    resnet(tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    assert HuggingFaceTeacher("net").model == str(tmp_path / "net")
    assert HuggingFaceTeacher("google/some-vit").model == "google/some-vit"


def test_model_is_refused_when_it_is_none_incomplete_or_of_another_kind(tmp_path, data):
    assert refused(HuggingFaceTeacher(str(tmp_path / "nothing")), data).field == "teachers.model"
    vit(tmp_path / "vit")
    tapped = HuggingFaceTeacher(str(tmp_path / "vit"), taps={"stage1": "nothing"})
    assert refused(tapped, data).field == "teachers.taps.stage1"
    torch.save(transformers.ViTModel.from_pretrained(tmp_path / "vit").state_dict(), tmp_path / "w.bin")
    os.replace(tmp_path / "w.bin", tmp_path / "vit" / "pytorch_model.bin")
    (tmp_path / "vit" / "model.safetensors").unlink()
    assert "no usable model" in refused(HuggingFaceTeacher(str(tmp_path / "vit")), data).problem  # never unpickled
    vit(tmp_path / "headless")
    transformers.ViTModel.from_pretrained(tmp_path / "headless").save_pretrained(tmp_path / "headless")
    assert "it has no weights for" in refused(HuggingFaceTeacher(str(tmp_path / "headless")), data).problem


def test_model_names_the_extra_when_transformers_is_missing(data, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else there(name))
    assert refused(HuggingFaceTeacher("any"), data).remedy == 'pip install "kdnas_ray[huggingface]"'
