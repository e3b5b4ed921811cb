"""What each model is: which stage makes it, whether it is fine-tuned then, and how it ships.

The stages, the matrices of dvc.yaml and the report follow this table; tests/test_contract.py holds them together.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Model:
    """A row of the report for each precision.

    Attributes:
        name: Of its files and rows.
        maker: The stage that makes it, or what fine-tuning starts from.
        recipe: The section of params.yaml that says how it is trained.
        finetuned: Whether the stage `finetune` goes on from there.
        packed: Whether its ONNX files ship packed, for their zeros.
    """

    name: str
    maker: str
    recipe: str = "finetune"
    finetuned: bool = True
    packed: bool = False


MODELS = {
    model.name: model
    for model in (
        Model("base", maker="train", recipe="train", finetuned=False),
        Model("refined", maker="refine", finetuned=False),
        Model("structured", maker="prune"),
        Model("unstructured", maker="sparsify", packed=True),
        Model("lowrank", maker="factorize"),
        Model("distilled", maker="distill", recipe="distill", finetuned=False),
        Model("sparse-lowbit", maker="squeeze", recipe="squeeze", finetuned=False, packed=True),
    )
}
FINETUNED = [model.name for model in MODELS.values() if model.finetuned]
PACKED = [model.name for model in MODELS.values() if model.packed]


def variant_name(model: str, precision: str) -> str:
    """The row of the report: `base` for fp32, `base-int8`."""
    return model if precision == "fp32" else f"{model}-{precision}"
