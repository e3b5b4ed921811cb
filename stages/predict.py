"""Classify photos with a shipped model, without PyTorch: `python -m stages.predict photo.jpg --model FILE`."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from stages.lib.runtime.preparation import prepare
from stages.lib.runtime.session import open_session, softmax
from stages.lib.stage import one_line_errors, printable, track

TOP = 5


def main() -> None:
    """Print the most likely classes of each image with their probabilities; exit with 1 if one can't be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    parser.add_argument("--model", type=Path, required=True, help="an .onnx or .onnx.packed file")
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8

    session = open_session(args.model, threads=0)
    classes = class_names(session)
    problems: list[str] = []
    rows = []
    for path, probabilities in predict(session, list_images(args.images), problems):
        for label in np.argsort(-probabilities, kind="stable")[:TOP]:
            rows.append((str(path), classes[label], round(100 * float(probabilities[label]), 2)))
    if args.format == "json":
        found: dict[str, list[dict[str, str | float]]] = {}
        for image, name, percent in rows:
            found.setdefault(image, []).append({"class": name, "percent": percent})
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif args.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([("image", "class", "percent"), *rows])
    else:
        for image, name, percent in rows:
            print(printable(f"{image}  {percent:5.1f} %  {name}"))
    if problems:
        sys.exit("\n".join(map(printable, problems)))


def class_names(session: onnxruntime.InferenceSession) -> list[str]:
    """Names by label, from the model's metadata.

    Raises:
        ValueError: If the model has none.
    """
    names = session.get_modelmeta().custom_metadata_map.get("classes")
    if names is None:
        raise ValueError("--model must be a file of this pipeline, got one without class names")
    return [str(name) for name in json.loads(names)]


def list_images(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and those in its folders that are not hidden, each once.

    Raises:
        ValueError: If there is none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if not file.is_dir() and not _is_hidden(file.relative_to(path))]
    if not found:
        raise ValueError(f"IMAGE must be an image or a folder with images, got {', '.join(map(str, paths))}")
    return list(dict.fromkeys(found))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def predict(
    session: onnxruntime.InferenceSession, paths: Sequence[Path], problems: list[str]
) -> Iterator[tuple[Path, np.ndarray]]:
    """Each image and the probabilities of its classes, float32 (num_classes,); what can't be read joins `problems`."""
    size = session.get_inputs()[0].shape[1]
    for path in track(paths, unit="image"):
        try:
            image = prepare(path, size)[None]  # uint8 (1, size, size, 3)
        except ValueError as error:
            problems.append(str(error))
            continue
        yield path, softmax(session.run(["logits"], {"images": image})[0])[0]


if __name__ == "__main__":
    with one_line_errors("predict"):
        main()
