"""The paper's loss: labels teach one head, a real-valued teacher the other.

N images, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.errors import RecipeError
from bcdnet.models import Network
from bcdnet.training.recipe import StepConfig


def check_heads(model: Network, step: StepConfig, taught: bool) -> None:
    """Raise RecipeError where a head would stay as it began, though the network predicts with both."""
    if taught and step.label_weight == 0 and model.config.distilled:
        remedy = "model.distilled=false makes a network of one head"
        raise RecipeError(f"steps.{step.name}.label_weight: 0 leaves the head `fc` untrained; {remedy}")


class TrainingLoss(nn.Module):
    """(label_weight * CE(labels) + distillation weight * KD(teacher)) / (label_weight + distillation weight).

    - Two heads and a teacher: CE with label smoothing on `fc`, KD on `fc_dist`; at weights 1 and 1 the paper's loss.
    - One head and a teacher: both terms on the one head; `label_weight` defaults to 0 (ReActNet: distillation only).
    - No teacher: CE alone, on the mean of two heads, since the mean is what the network predicts with.

    KD is the cross-entropy to softmax(teacher / T) of log softmax(student / T), times T^2 so that T leaves the size of
    its gradient alone (Hinton et al., 2015); at the paper's T = 1 it is the plain cross-entropy.
    """

    def __init__(self, step: StepConfig) -> None:
        super().__init__()
        self.smoothing = step.label_smoothing
        self.label_weight = step.label_weight
        self.distillation_weight = step.distillation.weight
        self.temperature = step.distillation.temperature

    def forward(
        self, logits: Tensor | tuple[Tensor, Tensor], targets: Tensor, teacher_logits: Tensor | None = None
    ) -> Tensor:
        """The mean loss over the images, 0-dim float32.

        logits: [N, K], or a pair of them (fc, fc_dist); targets: int64 [N] or probabilities [N, K]; teacher_logits:
        [N, K] or None.
        """
        for_labels, for_teacher = logits if isinstance(logits, tuple) else (logits, logits)
        if teacher_logits is None:
            mean = (for_labels + for_teacher) / 2 if isinstance(logits, tuple) else for_labels
            return self.label_loss(mean, targets)
        label_weight = float(isinstance(logits, tuple)) if self.label_weight is None else self.label_weight
        total = self.distillation_weight * self.distillation_loss(for_teacher, teacher_logits)
        if label_weight:
            total = total + label_weight * self.label_loss(for_labels, targets)
        return total / (label_weight + self.distillation_weight)

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with label smoothing; logits [N, K], targets int64 [N] or probabilities [N, K] -> 0-dim."""
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.smoothing)

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Cross-entropy to the teacher's softened softmax; both [N, K] -> 0-dim."""
        wanted = F.softmax(teacher_logits.float() / self.temperature, dim=1)
        return F.cross_entropy(logits.float() / self.temperature, wanted) * self.temperature**2
