"""Each detector of the catalogue from training to answers, in miniature."""

from pathlib import Path

import numpy as np
import pytest
import torch
from boxed import squares

from retrieval.detection.catalogue import CLASSES
from retrieval.detection.detection_report import evaluate_detector
from retrieval.detection.detector import detect_pictures
from retrieval.network_files import kind_of_model, load_detector
from retrieval.run_config import TrainDetectConfig
from retrieval.structure import layers_of
from retrieval.train_detect import run_at, train_detect

CPU = torch.device("cpu")
SLOW = dict.fromkeys(("faster-rcnn", "mask-rcnn", "fast-rcnn", "rcnn"), pytest.mark.slow)


@pytest.mark.parametrize("model", [pytest.param(m, marks=SLOW.get(m, ())) for m in CLASSES])
def test_it_trains_answers_and_comes_back_from_its_run(model: str, tmp_path: Path) -> None:
    run, data = run_at(tmp_path / "run"), squares(12, empty=2, masks=True)
    config = TrainDetectConfig(validation=0.25).with_values(
        {"model": model, "backbone": "tiny", "image_size": 64, "epochs": 1, "batch_size": 3,
         "precision": "fp32"}
    )  # fmt: skip
    assert train_detect(config, data, run, device=CPU)
    assert kind_of_model(run.folder) == "detector"
    detector = load_detector(run.folder)
    assert detector.spec.model == model
    assert detector.spec.classes == ("red", "blue")
    found = detect_pictures(detector, list(data.pictures[:2]))
    again = detect_pictures(load_detector(run.folder), list(data.pictures[:2]))
    for one, other in zip(found, again, strict=True):
        assert (one.boxes == other.boxes).all()
        assert (one.scores == other.scores).all()
        assert (np.diff(one.scores) <= 0).all()
    report = evaluate_detector(detector, data, masks=model == "mask-rcnn")
    assert report.map is not None
    assert 0 <= report.map <= 1
    layers = layers_of(detector, (3, 64, 64))
    assert sum(layer.parameters for layer in layers) > 0
    resumed = run_at(tmp_path / "run")
    assert train_detect(config, data, resumed, device=CPU, resume=True)
