"""The README of a results folder, from its results.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from race.entries import ACCURACY, CAPPED, LAYERS, key, macs, ours
from race.summary import spread

QUIET = 0.05  # CPUs that other processes may use before the page warns

NOTES = f"""
- **Turns.** Every engine has a process of its own. In each round each row gets one burst, in an order drawn for the
  round, while all other processes sleep. A burst is two warm-up runs, then runs for the burst's length (at least three;
  a network that takes over 100 ms runs once, after one warm-up). Times are medians over the rounds of the bursts'
  medians, with quartiles in brackets; ratios are divided within a round before their median is taken.
- **Instruction sets.** Peers use whatever they choose, AVX-512 included where the processor has it. Rows ending in
  `{CAPPED.strip()}` were capped: OpenVINO by `ONEDNN_MAX_CPU_ISA=AVX2`, PyTorch by that and
  `ATEN_CPU_CAPABILITY=avx2`. ONNX Runtime and Larq Compute Engine have no such switch. OpenVINO's BinaryConvolution
  heeds the cap in part: it drops VPOPCNT and VNNI and keeps 512-bit byte shuffles where the processor has them
  (`kernel` in results.json names what ran).
- **Precision.** "OpenVINO fp32" has `INFERENCE_PRECISION_HINT=f32`; "OpenVINO default" leaves the choice to OpenVINO,
  which takes bfloat16 where the processor has it, as its int8 rows do for what stays in floating point.
- **int8.** Post-training quantisation with eight random images: ONNX Runtime's static QDQ (u8 activations, i8 weights
  per output channel), NNCF's default, and the QDQ file read by OpenVINO.
- **PyTorch.** "bcdnet.nn" is our module, eager. "weights scaled first" is the published networks' arithmetic: weights
  binarised in every pass and scaled before a float convolution. "and estimators" adds what the published code also
  computes in evaluation: sign(x) - s(x) + s(x) for the gradient's surrogate s, in activations and weights.
- **Larq Compute Engine** is made for ARM; on x86 its default binary kernels are plain C++. Its indirect BGEMM, an
  option of its interpreter that gives the same outputs, is faster and has a row of its own. Binary convolutions are
  padded with ones there, which suits it best.
- **Layers.** `kernel` is the time that each engine's own profile gives its binary convolution (bits in, float32 map
  out, zero padding); `network` is a whole network of one layer, from a float32 map, with its binarisation: OpenVINO
  returns the map, ours its mean over positions. One thread.
- Weights are random. No engine pins its threads.
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _times(value: Mapping[str, float] | None, wanted: float) -> str:
    """A ratio with its quartiles, bold where it reaches what is wanted."""
    if value is None:
        return "–"
    median = f"{value['median']:.2f}"
    if value["median"] >= wanted:
        median = f"**{median}**"
    fastest = f" {value['of_fastest_runs']:.2f}" if "of_fastest_runs" in value else ""
    return f"{median} [{value['q1']:.2f}–{value['q3']:.2f}]{fastest}"


def _milliseconds(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    ms = entry["ms"]
    return f"{ms['median']:.2f} [{ms['q1']:.2f}–{ms['q3']:.2f}]"


def requirements(results: Mapping[str, Any]) -> str:
    """What is required of BCDNet-A and how much was reached, in Markdown."""
    targets = results["targets"]
    return _table(
        ["BCDNet-A is faster than … by", "wanted", *(f"ours, {target}" for target in targets)],
        [
            [row["against"], f"{row['wanted']:g}", *(_times(row["ratios"].get(t), row["wanted"]) for t in targets)]
            for row in results["requirements"]
        ],
    )


def layers(results: Mapping[str, Any]) -> str:
    """Ratios to OpenVINO's BinaryConvolution by layer, and the rates of all four kernels."""
    capped, free = "OpenVINO" + CAPPED, "OpenVINO"
    rows = []
    for row in results["layers"]:
        ratios = row["ratios"]
        rows.append(
            [f"`{row['layer']}`", row["target"]]
            + [
                _times(ratios.get(f"{kind} {peer}"), row["wanted"])
                for kind in ("kernel", "network")
                for peer in (capped, free)
            ]
        )
    header = ["layer (outputs, inputs, kernel @ map)", "ours", f"kernel, `{capped}`", f"kernel, {free}"]
    return _table([*header, f"network, `{capped}`", f"network, {free}"], rows)


def rates(results: Mapping[str, Any]) -> str:
    """GMAC/s inside each kernel."""
    engines = [*(ours(target) for target in results["targets"]), "OpenVINO" + CAPPED, "OpenVINO"]

    def rate(name: str, engine: str) -> str:
        entry = results["entries"].get(key(name, engine))
        return f"{macs(LAYERS[name]) / entry['kernel_ms']['median'] / 1e6:.0f}" if entry else "–"

    return _table(["layer", *engines], [[f"`{name}`", *(rate(name, engine) for engine in engines)] for name in LAYERS])


def networks(results: Mapping[str, Any]) -> str:
    """Every network on every engine, fastest first."""
    entries = results["entries"]
    reference = entries.get(key("BCDNet-A", ours(results["targets"][0])))
    rows = []
    for network, accuracy in ACCURACY.items():
        mine = [entry for entry in entries.values() if entry["network"] == network and entry["threads"] == 1]
        for entry in sorted(mine, key=lambda entry: entry["ms"]["median"]):
            pairs = zip(entry["rounds_ms"], reference["rounds_ms"], strict=True) if reference else ()
            faster = spread(theirs / our for theirs, our in pairs) if reference else None
            rows.append(
                [
                    network,
                    f"{accuracy:.1f}",
                    entry["engine"],
                    _milliseconds(entry),
                    _milliseconds(entries.get(key(network, entry["engine"], 2))),
                    f"{faster.median:.2f}" if faster else "–",
                ]
            )
    header = ["network", "top-1 (%)", "engine", "1 thread, ms", "2 threads, ms"]
    return _table([*header, f"1 thread ÷ BCDNet-A {results['targets'][0]}"], rows)


def _warning(results: Mapping[str, Any]) -> str:
    others = results["cpus_used_by_other_processes"]
    if others is None or others <= QUIET:
        return ""
    return (
        f"> **Not a quiet machine:** other processes used {others:.2f} of its {results['machine']['cpus']} CPUs during "
        "the race. Take two-thread rows and single bursts with care.\n\n"
    )


def _versions(results: Mapping[str, Any]) -> str:
    rows = [
        f"{name}: {', '.join(f'{what} {_words(value)}' for what, value in versions.items())}"
        for name, versions in results["versions"].items()
    ]
    return "\n".join(f"- {row}" for row in rows)


def _words(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def render(results: Mapping[str, Any]) -> str:
    """The whole page."""
    machine = results["machine"]
    changed = f" with {machine['changed_files']} changed files" if machine["changed_files"] else ""
    kind = "virtual CPUs" if machine["virtual"] else "CPUs"
    return f"""# Latency at 224 px and batch 1 against other engines, {results["date"]}

```bash
{results["command"]}    # {results["rounds"]} rounds in {results["race_seconds"]:.0f} s
```

{machine["processor"]}, {machine["cpus"]} {kind} with {", ".join(machine["flags"])}; {machine["system"]};
Python {machine["python"]}; commit {machine["commit"][:12]}{changed}.

{_warning(results)}## What is required

Ratios in one run, one thread each: median over the rounds, bold where the wanted ratio is reached; quartiles in
brackets; then the ratio of the fastest runs of all, which other processes disturb least.

{requirements(results)}

## Binary layers against OpenVINO's BinaryConvolution

How many times as fast ours is; {results["layers"][0]["wanted"]:g} is wanted.

{layers(results)}

GMAC/s inside the kernels, border positions counted as if they had all taps:

{rates(results)}

## Networks

![Latency on one thread against published accuracy](latency-accuracy.svg)

The accuracies are the published ones of the float or binary network; int8 rows have at most that.

{networks(results)}

## How it was measured
{NOTES}
## Versions

{_versions(results)}
"""
