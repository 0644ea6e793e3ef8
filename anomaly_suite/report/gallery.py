"""The gallery of a report: which samples it shows, and what of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomaly_suite.errors import DatasetError, ImageReadError
from anomaly_suite.report.pictures import Shown, data_uri, encoded, of_file, of_panel, shrunk
from anomaly_suite.report.results import Results, Row

BUDGET = 45_000  # characters of a picture, on average: 100 stay under 5 MB
THUMBNAILS = 8  # frames of a video
THUMBNAIL = (128, 60)  # side and quality


def items_of(found: Results, limit: int, videos: Path | None = None) -> list[dict[str, Any]]:
    """What the gallery shows, as plain values in the order of the table: ``row``, ``name``, and pictures or a curve.

    Args:
        found: Of the run; sentences on what there is not are added to ``missing``.
        limit: Of samples.
        videos: Folder with the original videos.
    """
    if found.curves:
        return _video_items(found, limit, videos)
    shown: dict[int, Shown] = {}
    failed: list[str] = []
    for place in chosen(found, limit):
        try:
            shown[place] = _picture(found, place)
        except (ImageReadError, OSError) as error:
            failed.append(str(error))
    if failed:
        found.missing.append(f"{len(failed)} pictures could not be read, the first because: {failed[0]}")
    if not shown:
        found.missing.append(
            "No picture is shown: there are no panels of this test (a method without maps writes none, nor does --disable heatmaps), "
            "and the table has no path of an image that is there."
        )
    pictures = encoded(list(shown.values()), BUDGET * max(len(shown), 1))
    return [
        {"row": place, "name": found.rows[place].path or "", **picture}
        for place, picture in zip(shown, pictures, strict=True)
    ]


def chosen(found: Results, limit: int) -> list[int]:
    """Rows of which there is a picture: in turn one of each kind (category, defect, decision), those with a map first.

    Of each kind they are spread evenly over the scores.

    Args:
        found: Of the run.
        limit: At most so many.
    """
    there = [place for place, row in enumerate(found.rows) if place in found.panels or _file_of(found, row) is not None]
    if len(there) <= limit:
        return there
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place in there:
        row = found.rows[place]
        groups.setdefault((row.loader, row.category, row.kind, row.label, row.decision), []).append(place)
    turns = itertools.zip_longest(*(_spread(found, group) for group in groups.values()))
    in_turn = (place for turn in turns for place in turn if place is not None)
    return sorted(itertools.islice(in_turn, limit))


def _spread(found: Results, places: list[int]) -> Iterator[int]:
    """Those with a panel, then the others; each from both ends and the middle of the scores inwards."""
    for has_panel in (True, False):
        part = sorted(
            (place for place in places if (place in found.panels) == has_panel),
            key=lambda place: found.rows[place].score,
        )
        step = 1 << max(0, len(part) - 1).bit_length()
        seen: set[int] = set()
        while step:
            for index in (*range(0, len(part), step), len(part) - 1):
                if 0 <= index < len(part) and index not in seen:
                    seen.add(index)
                    yield part[index]
            step //= 2


def _file_of(found: Results, row: Row) -> Path | None:
    """The image file of a row, where there is one."""
    if not row.path:
        return None
    root = ((found.options.get("data") or {}).get("init_args") or {}).get("root")
    return next((path for path in (Path(row.path), Path(str(root or ""), row.path)) if path.is_file()), None)


def _picture(found: Results, place: int) -> Shown:
    if (panel := found.panels.get(place)) is not None:
        return of_panel(panel)
    path = _file_of(found, found.rows[place])
    if path is None:
        raise ImageReadError(f"'{found.rows[place].path}' is gone. Test the run anew.")
    return of_file(path)


# Videos ------------------------------------------------------------------------------------------------------------------


def _video_items(found: Results, limit: int, videos: Path | None) -> list[dict[str, Any]]:
    places = sorted(found.curves)[:limit]
    items: list[dict[str, Any]] = [
        {"row": place, "name": found.rows[place].path or "", "curve": found.curves[place]} for place in places
    ]
    folder = videos or (found.options.get("curves") or {}).get("videos")
    if folder is None:
        found.missing.append(
            "Frames are not shown: scores are of features, and nothing says where the videos are. Give their folder by --videos FOLDER."
        )
        return items
    from anomaly_suite.callbacks.overlay import Originals  # loads torch

    originals = Originals(Path(folder), [row.path for row in found.rows if row.path])
    failed: list[str] = []
    for item in items:
        try:
            item["frames"] = _thumbnails(originals.find(item["name"]), item["curve"])
        except DatasetError as error:
            failed.append(str(error))
    if failed:
        found.missing.append(f"Frames of {len(failed)} videos are not shown, of the first because: {failed[0]}")
    return items


def _thumbnails(original: Path, curve: dict[str, Any]) -> list[dict[str, Any]]:
    """A few frames of a video: the one with the highest score, the middles of true events, and others at even distances."""
    from anomaly_suite.io.videos import FrameReader

    count, scores = curve["frames"], [value or 0.0 for value in curve["score"]]
    peak = scores.index(max(scores)) * count // len(scores)
    even = [round((part + 0.5) * count / THUMBNAILS) for part in range(THUMBNAILS)]
    wanted = [peak, *((start + end) // 2 for start, end in curve["events"][: THUMBNAILS // 2])]
    near = count / (2 * THUMBNAILS)
    wanted += [frame for frame in even if all(abs(frame - other) > near for other in wanted)]
    reader = FrameReader()
    frames = []
    for number in sorted(set(wanted[:THUMBNAILS])):
        image = reader.read(original, min(number, count - 1))
        frames.append({"at": number, "image": data_uri(shrunk(image, THUMBNAIL[0]), THUMBNAIL[1])})
    return frames
