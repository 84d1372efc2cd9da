"""Who may import whom: a layer imports layers below it; index imports neither retrieval nor torch."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"cli", "__main__", "demo"},
    {"web"},
    {"gallery", "trial"},
    {"train_embed", "train_classify", "train_detect", "protocols"},
    {"calibration"},
    {"initial_network", "batches", "class_loss"},
    {"duplicates"},
    {"exporting"},
    {"search", "building", "exchange", "binning", "labelling", "object_finder"},
    {"filling"},
    {"object_embedding"},
    {"questions", "thumbnails"},
    {"embedding", "comparing"},
    {"checkpoint"},
    {"network_files"},
    {"drawing"},
    {"embedder", "classifier", "detection", "objects"},
    {"network"},
    {"training", "losses", "datasets"},
    {"structure", "metric_losses", "mining", "sampling", "augment", "pooling", "backbones",
     "picture_cache", "pictures", "picture_lists", "labeled_images", "evaluation",
     "classification", "report", "curves", "progress", "diagnosis", "discretize"},
    {"outputs"},
    {"images", "picture_files", "device", "processes", "presets", "optimizers", "layers",
     "published", "tables", "fonts", "ranking", "mapped_rows"},
    {"run_config"},
    {"config"},
    {"specs", "object_spec"},
    {"settings", "csv_rows", "npy_files", "checksum"},
    {"errors", "models", "summary", "__init__"},
]  # fmt: skip


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(module: str) -> int:
    places = [i for i, layer in enumerate(LAYERS) if module in layer]
    assert len(places) == 1, f"{module} has no place in the layers"
    return places[0]


def test_arrows_point_downwards() -> None:
    wrong = []
    for file in (ROOT / "retrieval").rglob("*.py"):
        module = file.relative_to(ROOT / "retrieval").with_suffix("").parts[0]
        own = layer_of(module)
        for name in imports_of(file):
            parts = name.split(".")
            if parts[0] != "retrieval" or len(parts) < 2 or parts[1] == "__version__":
                continue
            other = parts[1]
            allowed = layer_of(other) > own or (other == module or own == 0 == layer_of(other))
            if not allowed:
                wrong.append(f"{file.name} imports {name}")
    assert wrong == []


def test_the_index_knows_neither_pictures_nor_torch() -> None:
    allowed = {"index", "faiss", "numpy", "sqlite3"}
    third_party = {"retrieval", "torch", "torchvision", "PIL", "click", "tqdm", "sklearn"}
    for file in (ROOT / "index").rglob("*.py"):
        tops = {name.split(".")[0] for name in imports_of(file)}
        assert not tops & third_party, f"{file.name} imports {tops & third_party - allowed}"


def test_no_backbone_imports_another() -> None:
    folder = ROOT / "retrieval" / "backbones"
    for file in folder.glob("*.py"):
        if file.name != "__init__.py":
            siblings = {n for n in imports_of(file) if n.startswith("retrieval.backbones")}
            assert not siblings


def test_the_loop_knows_no_task() -> None:
    names = imports_of(ROOT / "retrieval" / "training.py")
    ours = {n.split(".")[1] for n in names if n.startswith("retrieval.") or n.startswith("index.")}
    assert ours == {"config", "device", "errors", "optimizers", "processes"}


def test_pickle_is_never_loaded() -> None:
    for package in ("retrieval", "index", "scripts"):
        for file in (ROOT / package).rglob("*.py"):
            assert "pickle" not in imports_of(file), file
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True"
                               for k in node.keywords), file  # fmt: skip
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                    assert any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False"
                               for k in node.keywords), file  # fmt: skip
