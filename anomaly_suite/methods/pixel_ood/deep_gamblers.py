"""Deep Gamblers: a network that may keep its stake instead of betting on a class, and does so where it does not know.

Paper: Liu et al., "Deep Gamblers: Learning to Abstain with Portfolio Theory", NeurIPS 2019, arXiv:1907.00208; as a method for
    driving scenes in chapter 11 of Yu Tian's thesis.
Reference: described by our notes; no code was read.
Differs: as in the thesis, the last block of a trained segmenter is tuned, on scenes with pasted outliers; ``outlier_weight: 0``
    learns from known pixels alone, as the paper does. Images with and without outliers have the same weight, as in PEBAL.
Axes: B batch, Y classes, K = Y + 1 channels, the last for abstention, H and W pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pixel_ood.abstention import FineTunedSegmenter, OutlierForm, abstention_loss
from anomaly_suite.methods.pixel_ood.scores import energy


class DeepGamblers(FineTunedSegmenter):
    """Bets on classes pay ``payoff``, abstention returns the stake; the probability of abstention is the score.

    Where the network is sure of no class by more than ``1 / payoff``, abstaining altogether is best.

    Args:
        payoff: o, above 1 and at most ``num_classes``.
        outlier_weight: Of the loss of pasted outliers; 0 learns from known pixels alone.
        outlier_form: See :func:`~anomaly_suite.methods.pixel_ood.abstention.abstention_out`.
        score: ``abstention``, the probability of the further channel, or ``energy``, the free energy of the classes.
        tuning: Options of :class:`~anomaly_suite.methods.pixel_ood.abstention.FineTunedSegmenter`.

    Raises:
        ConfigError: a payoff out of its range.

    Source:
        Equation 5 of the paper, divided by o, which changes the loss by a constant.
    """

    def __init__(
        self,
        *,
        payoff: float = 4.5,
        outlier_weight: float = 0.1,
        outlier_form: OutlierForm = "released",
        score: Literal["abstention", "energy"] = "abstention",
        **tuning: Any,
    ) -> None:
        super().__init__(abstention=True, **tuning)
        self.save_hyperparameters()
        if not 1 < payoff <= self.num_classes:
            raise ConfigError(
                f"payoff must be above 1 and at most num_classes={self.num_classes}; got {payoff}. Small ones abstain easily."
            )
        if outlier_weight < 0:
            raise ConfigError(f"outlier_weight must be 0 or above; got {outlier_weight}.")
        self.payoff = payoff
        self.outlier_weight = outlier_weight
        self.outlier_form: OutlierForm = outlier_form
        self.score = score

    def score_map(self, evidence: Tensor) -> Tensor:
        """Probability of abstention, in [0, 1], or free energy: (B, K, H, W) to (B, 1, H, W)."""
        if self.score == "energy":
            return energy(evidence[:, :-1])
        return evidence.float().softmax(1)[:, -1:]

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The gambler's loss."""
        log_payoff = logits.new_tensor(math.log(self.payoff))
        loss = abstention_loss(logits, target, log_payoff, outlier_weight=self.outlier_weight, form=self.outlier_form)
        return {"abstention": loss}
