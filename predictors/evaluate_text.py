"""The evaluation for people: the paper's tables with ours beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Table II: mean squared error (in a unit that the paper does not name) and R2.
PAPER_2 = {
    "batch_norm": (0.045, 0.957),
    "conv": (0.040, 0.980),
    "relu": (0.021, 0.993),
    "dense": (0.021, 0.854),
    "add": (0.009, 0.995),
    "dropout": (0.044, 0.941),
    "depthwise_conv": (0.008, 0.994),
    "global_avg_pool": (0.023, 0.992),
}
#: Table V, percent: of each network on the paper's two platforms.
PAPER_5 = {
    "resnet32-cifar10": {
        "repartition": (3.48, 2.33),
        "early_exit": (10.10, 13.06),
        "skip": (2.92, 3.06),
    },
    "mobilenetv2-cifar10": {
        "repartition": (2.44, 0.51),
        "early_exit": (3.22, 5.07),
        "skip": (2.92, 0.73),
    },
}
#: Table VI, percent.
PAPER_6 = {
    "resnet32-cifar10": {"repartition": 0.0, "early_exit": 0.03, "skip": 0.06},
    "mobilenetv2-cifar10": {"repartition": 0.12, "early_exit": 0.03, "skip": 0.28},
}
#: Section IV-B: MSE and R2 of the accuracy model.
PAPER_ACCURACY = (0.223, 0.9801)


def describe(report: Mapping[str, Any]) -> str:
    """All tables as text."""
    return "\n".join(
        [
            *_table_2(report["table_2"]),
            "",
            *_table_5(report["table_5"]),
            *(f"{name}: {why}" for name, why in report["details"]["latency_not_predicted"].items()),
            "",
            *_table_6(report["table_6"], report["details"]["table_6_noise_percent"]),
            "",
            *_accuracy_model(report["details"]),
        ]
    )


def _table_2(table: Mapping[str, Any]) -> Iterator[str]:
    yield "Table II: latency of operators (R2; median error; noise between two measurements)"
    yield f"{'':<18}{'paper R2':>10}{'R2':>9}{'unseen':>9}{'error %':>9}{'noise %':>9}"
    for kind, (_, paper) in PAPER_2.items():
        row = table.get(kind, {})
        reason = f"  {row['reason']}" if row.get("reason") else ""
        yield (
            f"{kind:<18}{paper:>10.3f}{_number(row.get('r2'), 9, 3)}"
            f"{_number(row.get('r2_unseen'), 9, 3)}"
            f"{_number(row.get('median_error_percent'), 9)}"
            f"{_number(row.get('noise_percent'), 9)}{reason}"
        )


def _table_5(table: Mapping[str, Any]) -> Iterator[str]:
    yield "Table V: end-to-end latency of plans, average error in %"
    yield f"{'':<34}{'paper':>14}{'error %':>9}{'noise %':>9}"
    for network, techniques in PAPER_5.items():
        for technique, (first, second) in techniques.items():
            cell = table[network][technique]
            yield (
                f"{network:<22}{technique:<12}{f'{first:.2f}, {second:.2f}':>14}"
                f"{_number(cell['error_percent'], 9)}{_number(cell['noise_percent'], 9)}"
            )


def _table_6(table: Mapping[str, Any], noise: Mapping[str, Any]) -> Iterator[str]:
    yield "Table VI: accuracy of final weights, average error in %"
    yield f"{'':<34}{'paper':>8}{'split':>9}{'unseen':>9}{'noise %':>9}"
    for network, techniques in PAPER_6.items():
        for technique, paper in techniques.items():
            cell = table[network][technique]
            floor = noise.get(network, {}).get(technique)
            yield (
                f"{network:<22}{technique:<12}{paper:>8.2f}{_number(cell['error_percent'], 9)}"
                f"{_number(cell['error_percent_unseen_runs'], 9)}{_number(floor, 9)}"
            )


def _accuracy_model(details: Mapping[str, Any]) -> Iterator[str]:
    mse, r2 = PAPER_ACCURACY
    yield (
        f"Accuracy model (paper: R2 {r2:.4f}, MSE {mse:.3f}), from "
        f"{len(details['training_runs'])} training runs; at deployable checkpoints MAE and ranking"
    )
    yield f"{'':<38}{'R2':>9}{'MSE':>10}{'MAE':>8}{'Spearman':>10}{'Kendall':>9}"
    for title, key in (
        ("model", "accuracy_model"),
        ("without Train_accuracy, Train_loss", "without_training_figures"),
        ("mean of the variant", "mean_of_variant"),
    ):
        for way, name in (("split", "split"), ("unseen runs", "unseen_runs")):
            row = details[key][name]
            yield (
                f"{f'{title}, {way}' if way == 'split' else f'  {way}':<38}"
                f"{_number(row['r2'], 9, 4)}{_number(row['mse'], 10)}"
                f"{_number(row['deployable_mae'], 8)}"
                f"{_number(row['deployable_spearman'], 10, 3)}"
                f"{_number(row['deployable_kendall'], 9, 3)}"
            )
    yield f"with shuffled accuracies R2 is {details['shuffled_labels_r2']:.3f}; {details['values']}"


def _number(value: float | None, width: int, digits: int = 2) -> str:
    """Right-aligned; a dash where nothing was measured."""
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
