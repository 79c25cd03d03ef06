"""What steering did, as tables and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wif_store.scorer.tables import Section, as_percent, as_range

if TYPE_CHECKING:
    from wif_store.scorer.results import Results
    from wif_store.scorer.steered import Steering


def steering_verdict(results: Results, one: Steering) -> str:
    """Say in one sentence whether a direction moves answers more than random ones do."""
    effect, where = one.against_random, "all tokens" if one.at == "all" else "the end of the context"
    move = "projected out" if one.ablate else f"±{one.strength:g} SD"
    kl = f"{effect.kl:.3f} nats, theirs {effect.control_kl:.3f}"
    return (
        f"{one.task}: {one.method} at layer {one.layer} ({move}, {where}) {effect.verdict} random directions "
        f"({effect.flips:.3f} against {effect.control:.3f}, {effect.difference:+.3f} "
        f"{as_range(effect.low, effect.high, '+')}; KL {kl})."
    )


def effects(results: Results) -> Section:
    """Lay out what directions do to answers."""
    header = ["task", "direction", "layer", "strength", "answers changed", "by random", "difference"]
    header += [f"{as_percent(results)} interval", "less means", "interval", "KL", "of random"]
    header += ["accuracy", "along", "against"]
    rows = []
    for one in results.steering:
        random, means = one.against_random, one.against_means
        row = [one.task, one.method, str(one.layer), f"{one.strength:g}"]
        row += [f"{random.flips:.3f}", f"{random.control:.3f}"]
        for effect in (random, means):
            row += [f"{effect.difference:+.3f}", as_range(effect.low, effect.high, "+")]
        row += [f"{random.kl:.3f}", f"{random.control_kl:.3f}", f"{one.accuracy:.3f}"]
        ways = (one.strength,) if one.ablate else (one.strength, -one.strength)
        row += [f"{one.dose(one.method, way).accuracy:.3f}" for way in ways]
        rows.append(row + [""] * (len(header) - len(row)))
    remarks = [steering_verdict(results, one) for one in results.steering]
    for one in results.steering:
        if one.push:
            remarks.append(
                f"{one.task}: accuracy along {one.method} less that against it: {one.push[0]:+.3f} "
                f"{as_range(*one.push[1:], '+')}."
            )
        remarks += [f"{one.task}: {note}" for note in one.notes]
        if not 0.75 <= one.against_random.control_kl / max(one.against_random.kl, 1e-12) <= 1.33:
            remarks.append(
                f"{one.task}: the controls move the distribution by another KL than the direction, so the "
                "difference says less."
            )
        if one.differs or one.apart:
            remarks.append(
                f"{one.task}: without a move {one.differs} of {one.examples} answers are not those of the "
                f"store, and the log-likelihoods of {one.apart} are farther off than rounding explains."
            )
    remarks += [
        "Answers changed: under a move along the direction, or under one against it.",
        "KL: how far the distribution of the answer's first token moved. Controls are moved so far that "
        "theirs is the same on validation, where the strength is chosen too.",
        "Intervals: a paired bootstrap over examples and over random directions.",
    ]
    return Section("Does moving along it change the answers?", header, rows, remarks)


def doses(results: Results) -> Section:
    """Lay out every move."""
    header = ["task", "direction", "strength", "norm", "accuracy", "interval", "answers changed", "interval"]
    header += ["right to wrong", "wrong to right", "KL"]
    rows = [
        [
            one.task,
            dose.method,
            f"{dose.strength:+g}",
            f"{dose.size:.4g}",
            f"{dose.accuracy:.3f}",
            as_range(*dose.accuracy_interval),
            f"{dose.flips:.3f}",
            as_range(*dose.flips_interval),
            f"{dose.right_to_wrong:.3f}",
            f"{dose.wrong_to_right:.3f}",
            f"{dose.kl:.3f}",
        ]
        for one in results.steering
        for dose in one.doses
    ]
    remarks = ["Strength: in standard deviations along the direction over train; norm: of what is added."]
    return Section("Every move", header, rows, remarks, detail=True)
