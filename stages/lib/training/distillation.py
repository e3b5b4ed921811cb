"""Losses that make a student's logits follow a teacher's."""

from torch import Tensor
from torch.nn import functional

from stages.lib.schema import Distillation


def standardize(logits: Tensor) -> Tensor:
    """Z-score of each image's logits (N, C), so that a student need not match their range."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (centred.std(dim=1, keepdim=True) + 1e-7)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, labels_loss: Tensor, *, recipe: Distillation) -> Tensor:
    """Weighted sum of the loss on labels and the divergence from the teacher.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; standardized logits: Sun et al.,
    "Logit Standardization in Knowledge Distillation", CVPR 2024.

    Args:
        logits: Of the student, float (N, C).
        teacher_logits: Float (N, C), without gradient.
        labels_loss: Cross-entropy with the labels, a scalar.

    Returns:
        A scalar: label_weight * labels_loss + weight * T^2 * KL(teacher || student), both at temperature T.
    """
    if recipe.loss == "standardized_kd":
        logits, teacher_logits = standardize(logits), standardize(teacher_logits)
    divergence = functional.kl_div(
        functional.log_softmax(logits / recipe.temperature, dim=1),
        functional.log_softmax(teacher_logits / recipe.temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return recipe.label_weight * labels_loss + recipe.weight * recipe.temperature**2 * divergence
