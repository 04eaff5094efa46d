"""From clips' scores to a report: flat results with intervals, a table a clip, a summary, pictures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lipformer_core.results import write_results

from .clip_judge import SCORED, SPEAKERS, YAWS, ClipScores, spread_over_opening
from .metrics import bootstrap_interval

ENDINGS = ("", ".low", ".high", ".why", ".low.why", ".high.why")
NOT_MEASURED = "no clip allowed this measurement"
STILL = 1e-6  # inter-ocular distances: below this a deviation is rounding
ALONE = "an interval over clips needs at least two"
# columns that are a quotient of two means over clips: quotients of single clips explode where a clip is nearly still
RATIOS = {
    **{f"{row}.silence_motion": (f"{row}.silence_deviation", f"{row}.speech_deviation") for row in SPEAKERS},
    # motion that the meter reads where no mouth was driven: the floor of silence_motion
    "warped_reference.silence_motion": ("warped_reference.deviation", "lipformer.speech_deviation"),
    **{f"{row}.motion": (f"{row}.deviation", "ground_truth.deviation") for row in ("ground_truth", *SCORED)},
}
SAME = {
    "codebook.psnr": "ceiling.psnr",
    "codebook.ssim": "ceiling.ssim",
    "meter.truth_corr": "ground_truth.opening_corr_self",
    "truth_in_picture": "ceiling.opening_corr_self",
}
ALWAYS = (
    *(f"{row}.mouth_psnr" for row in ("ceiling", "copy_reference", "warped_reference", "lipformer")),
    *("ceiling.psnr", "ceiling.ssim", "lipformer.psnr", "lipformer.ssim"),
    *("lipformer.opening_corr_self", "lipformer.opening_corr_exchanged", "lipformer.leak"),
    *("lipformer.leak_floor", "lipformer.leak_excess"),
    *("lipformer.silence_deviation", "lipformer.speech_deviation", "warped_reference.deviation"),
    *("lipformer.sharpness", "ground_truth.deviation", "lipformer.deviation"),
    *("ground_truth.opening_corr_self", "ceiling.opening_corr_self", "sound_alone.opening_corr_self"),
    *("lipformer.opening_corr_self_landmarks", "ground_truth.opening_corr_self_landmarks", "lipformer.lmd"),
)
ROWS = {
    "ground_truth": "ground truth",
    "ceiling": "stage-1 reconstruction (ceiling)",
    "copy_reference": "copy the reference's bottom half",
    "warped_reference": "warped reference, no Transformer",
    "lipformer": "LipFormer",
    "wav2lip": "Wav2Lip-style",  # where the run has trained it
}
COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "bottom_psnr": "PSNR bottom",
    "mouth_psnr": "PSNR mouth",
    "mouth_ssim": "SSIM mouth",
    "lpips": "LPIPS",
    "fid": "FID",
    "identity_distance": "identity, distance",
    "lmd": "LMD",
    "opening_corr_self": "opening, own audio",
    "opening_corr_exchanged": "opening, other's audio",
    "leak": "leak",
    "leak_floor": "leak, floor",
    "silence_motion": "motion in silence",
    "lse_d": "LSE-D",
    "lse_c": "LSE-C",
    "sync_expert_distance": "sync expert, distance",
    "sync_expert_confidence": "sync expert, confidence",
    "motion": "motion, over the truth's",
    "sharpness": "sharpness, over the truth's",
    "jitter": "jitter",
    "seam": "seam",
    "parameters": "parameters, millions",
    "gflop": "GFLOP a frame",
}
BY_YAW = {
    f"mouth_psnr_yaw_{name}": f"PSNR mouth, yaw {low} to {high}°" if high < 90 else f"PSNR mouth, yaw above {low}°"
    for name, (low, high) in YAWS.items()
}
LABELS = ROWS | {"lipformer": "LipFormer, own audio", "exchanged": "LipFormer, other's audio", "silence": "silence"}


def summarise(
    clips: Sequence[ClipScores], skipped: Mapping[str, str] | None = None, missing: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Flat results: `row.column` means over clips, `.low` and `.high` of their 95 % bootstrap interval, counts.

    What could not be measured is None with `<key>.why`. skipped: clips left out and why; missing: absent columns.
    """
    results: dict[str, object] = {
        "n_clips": len(clips),
        "n_frames": sum(clip.n_frames for clip in clips),
        "n_persons": len({clip.person for clip in clips}),
        "n_skipped": len(skipped or {}),
    }
    if skipped:
        results["skipped"] = "; ".join(f"{clip_id}: {reason}" for clip_id, reason in skipped.items())
    for key in dict.fromkeys([name for clip in clips for name in clip.values] + list(ALWAYS)):
        results |= _interval(key, [(clip.values.get(key, np.nan), 1.0) for clip in clips])
    for key, (above, below) in RATIOS.items():
        pairs = [(clip.values.get(above, np.nan), clip.values.get(below, np.nan)) for clip in clips]
        results |= _interval(key, pairs)
    for key, source in SAME.items():
        results |= {key + end: results[source + end] for end in ENDINGS if source + end in results}
    for key, reason in (missing or {}).items():
        results |= {key: None, f"{key}.why": reason}
    return results


def _interval(key: str, pairs: list[tuple[float, float]]) -> dict[str, object]:
    """Mean of numerators over mean of denominators with its interval; clips without the number are left out."""
    known = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
    numbers, why = (np.nan,) * 3, ALONE
    if not len(known):
        why = NOT_MEASURED
    elif known[:, 1].mean() < STILL:
        why = "the mouth does not move at all, so there is nothing to divide by"
    else:
        numbers = bootstrap_interval(known[:, 0], known[:, 1])
    out: dict[str, object] = {}
    for end, value in zip(("", ".low", ".high"), numbers, strict=True):
        out[key + end] = float(value) if np.isfinite(value) else None
        if out[key + end] is None:
            out[f"{key}{end}.why"] = why
    return out


def score_cells(
    results: Mapping[str, object], columns: Mapping[str, str] = COLUMNS, prefix: str = ""
) -> tuple[list[str], dict[str, list[str]]]:
    """Rows and columns of the protocol in words: headings, and row to its cells: mean, interval; a dash for none.

    What no row has is left out. prefix: of the results' keys.
    """
    shown = [c for c in columns if any(results.get(f"{prefix}{row}.{c}") is not None for row in ROWS)]
    table: dict[str, list[str]] = {}
    for row, title in ROWS.items():
        cells = []
        for column in shown:
            mean, low, high = (results.get(f"{prefix}{row}.{column}{end}") for end in ("", ".low", ".high"))
            digits = 1 if "psnr" in column or column == "fid" else 3
            interval = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
            cells.append("–" if mean is None else f"{mean:.{digits}f}{interval}")
        if set(cells) - {"–"}:
            table[title] = cells
    return [columns[c] for c in shown], table


def summary_table(results: Mapping[str, object], columns: Mapping[str, str] = COLUMNS) -> str:
    """`score_cells` as a Markdown table, with the number of clips, people and frames."""
    headings, table = score_cells(results, columns)
    lines = ["| row | " + " | ".join(headings) + " |", "| --- |" + " --- |" * len(headings)]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in table.items()]
    counts = f"{results['n_clips']} clips of {results['n_persons']} people, {results['n_frames']} frames"
    return "\n".join([*lines, "", f"{counts}; in brackets the 95 % bootstrap interval over clips.", ""])


def write_report(out: Path, results: dict[str, object], clips: Sequence[ClipScores]) -> dict[str, object]:
    """Write table.csv, summary.md, series.npz and pictures to `out`, results.json last; return what it holds."""
    from lipformer_core.figures import plots
    from lipformer_core.figures.results import close_ups

    out.mkdir(parents=True, exist_ok=True)
    columns = sorted({name for clip in clips for name in clip.values})
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "person", "audio_from", "n_frames", *columns])
        for clip in clips:
            numbers = [f"{clip.values[c]:.6g}" if c in clip.values else "" for c in columns]
            writer.writerow([clip.clip_id, clip.person, clip.partner or "", clip.n_frames, *numbers])
    tables = [summary_table(results, columns) for columns in (COLUMNS, BY_YAW)]
    (out / "summary.md").write_text("\n".join(tables), encoding="utf-8")
    series = {f"{clip.clip_id}/{name}": values for clip in clips for name, values in clip.series.items()}
    np.savez_compressed(out / "series.npz", **series)
    for number, clip in enumerate(c for c in clips if c.pictures):
        rows = {LABELS[name]: images for name, images in clip.pictures.items()}
        # of 256-pixel crops about every pixel
        plots.contact_sheet(rows, title=clip.clip_id).savefig(out / f"sheet_{number}.png", dpi=240)
        opening = clip.series["truth"]
        widest = opening[spread_over_opening(opening)].argmax()
        rows = {title: clip.pictures[row] for row, title in ROWS.items() if row in clip.pictures}
        close_ups(rows, int(widest), title=clip.clip_id).savefig(out / f"strip_{number}.png", dpi=150)
        curves = {"truth": clip.series["truth"], "generated, own audio": clip.series["lipformer"]}
        curves["generated, silence"] = clip.series["silence"]
        plots.opening_curves(curves, title=clip.clip_id).savefig(out / f"opening_{number}.png", dpi=150)
    return write_results(out / "results.json", results)
