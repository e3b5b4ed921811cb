"""The sources of the methods, of which the report lists those that its run used."""

from stages.lib.params import Recipe, StudentRecipe
from stages.lib.report.results import Results

REFERENCES = {
    "base": "GoogLeNet: C. Szegedy et al., [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), CVPR "
    "2015; its form for small images follows [weiaicunzai/pytorch-cifar100](https://github.com/weiaicunzai/pytorch-cifar100).",
    "structured": "Structured pruning: G. Fang et al., [DepGraph: Towards Any Structural Pruning]"
    "(https://arxiv.org/abs/2301.12900), CVPR 2023.",
    "bn_scale": "Channels by their scales: Z. Liu et al., [Learning Efficient Convolutional Networks through Network "
    "Slimming](https://arxiv.org/abs/1708.06519), ICCV 2017.",
    "taylor": "Channels by their gradients: P. Molchanov et al., [Importance Estimation for Neural Network Pruning]"
    "(https://arxiv.org/abs/1906.10771), CVPR 2019.",
    "unstructured": "Unstructured pruning: S. Han et al., [Learning both Weights and Connections for Efficient Neural "
    "Networks](https://arxiv.org/abs/1506.02626), NeurIPS 2015.",
    "gradual": "Sparsity raised gradually: M. Zhu and S. Gupta, [To prune, or not to prune]"
    "(https://arxiv.org/abs/1710.01878), 2017.",
    "lamp": "Zeros by layer: J. Lee et al., [Layer-adaptive Sparsity for the Magnitude-based Pruning]"
    "(https://arxiv.org/abs/2010.07611), ICLR 2021.",
    "channels_refitted": "Refitting by least squares after channels are gone: Y. He et al., [Channel Pruning for "
    "Accelerating Very Deep Neural Networks](https://arxiv.org/abs/1707.06168), ICCV 2017.",
    "weights_refitted": "Refitting by least squares after single weights are gone: E. Frantar and D. Alistarh, "
    "[SparseGPT](https://arxiv.org/abs/2301.00774), ICML 2023.",
    "lowrank": "Low rank: M. Jaderberg et al., [Speeding up Convolutional Neural Networks with Low Rank Expansions]"
    "(https://arxiv.org/abs/1405.3866), BMVC 2014; truncation by the error of a layer's output as in "
    "[arXiv 2511.04494](https://arxiv.org/abs/2511.04494).",
    "kd": "Distillation: G. Hinton et al., [Distilling the Knowledge in a Neural Network]"
    "(https://arxiv.org/abs/1503.02531), 2015.",
    "standardized_kd": "Distillation: S. Sun et al., [Logit Standardization in Knowledge Distillation]"
    "(https://arxiv.org/abs/2403.01427), CVPR 2024.",
    "muon": "Optimizer of convolutions: K. Jordan et al., [Muon: An optimizer for hidden layers in neural networks]"
    "(https://kellerjordan.github.io/posts/muon), 2024.",
    "int8": "Quantization: B. Jacob et al., [Quantization and Training of Neural Networks for Efficient "
    "Integer-Arithmetic-Only Inference](https://arxiv.org/abs/1712.05877), CVPR 2018; [ONNX Runtime's static "
    "quantization](https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).",
    "bias_correction": "Bias correction: M. Nagel et al., [Data-Free Quantization through Weight Equalization and Bias "
    "Correction](https://arxiv.org/abs/1906.04721), ICCV 2019.",
}


def references(results: Results) -> str:
    """A line for each source that this run used."""
    params, prune, models = results.params, results.params.prune, set(results.models)
    recipes: list[Recipe] = [params.train]
    recipes += [params.finetune] if models & set(params.models.finetuned) else []
    recipes += [params.distill] if "distilled" in models else []
    losses = {recipe.distillation.loss for recipe in recipes if isinstance(recipe, StudentRecipe)}
    used = {"int8"} | models | losses
    if "structured" in models:
        used |= {prune.importance, *(["bn_scale"] if prune.sparsify_epochs else [])}
    if "unstructured" in models:
        used |= {prune.sparsity_scope, *(["gradual"] if rises_gradually(results) else [])}
    used |= _refitted(results)
    if any(recipe.muon_lr is not None for recipe in recipes):
        used.add("muon")
    if any(each.bias_correction for each in results.quantization.values()):
        used.add("bias_correction")
    return "\n".join(f"- {source}" for key, source in REFERENCES.items() if key in used)


def _refitted(results: Results) -> set[str]:
    """What was refitted: channels, single weights, both or neither."""
    prune, distill = results.params.prune, results.params.distill
    fitted = set(results.models) & set(results.params.models.pruned) if prune.reconstruction_images else set()
    if "distilled" in results.models and distill.start == "base" and distill.reconstruction_images:
        fitted.add("distilled")
    return {"weights_refitted" if model == "unstructured" else "channels_refitted" for model in fitted}


def rises_gradually(results: Results) -> bool:
    """Whether fine-tuning raised the sparsity of the unstructured model, rather than pruning all at once."""
    prune = results.params.prune
    return prune.start_sparsity is not None and prune.start_sparsity < prune.sparsity
