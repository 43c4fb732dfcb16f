"""Take the screenshots in docs/images/ of a finished run: its report, and its model on the page of `cxml.serve`.

python docs/take_screenshots.py RUN_FOLDER                    report.png and serve.png
python docs/take_screenshots.py RUN_FOLDER --text "asthma"    with another text on the served page

It needs the packages of the extra `test`, and a Chromium as the tests of these pages do. The served page shows the name
of the run's folder. The pictures are of `make quickstart`'s run.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from cxml.errors import CxmlError, DataError
from cxml.report import PAGE_FILE

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from support.browser import FOUND, NAMES, page_in_browser  # noqa: E402 - found by the line above
from support.served import served  # noqa: E402

IMAGES = DOCS / "images"
_WIDTH, _HEIGHT = 960, 400  # the least height: pictures are as high as what they show
_MARGIN = 16
_COLOURS = 64  # of a picture, so that it is small
_TEXT = "Acute bronchitis after an infection with the respiratory syncytial virus"


def take_report(page: Page, report: Path) -> None:
    """The part of a report with the charts by label frequency and the examples.

    Raises:
        DataError: the report has no such part.
    """
    page.goto(report.resolve().as_uri())
    begin, end = page.locator("figure", has_text="Contribution of each label frequency"), page.locator("h2").last
    if not begin.count():
        raise DataError(str(report), "has no chart by label frequency", "Evaluate the run with this version of cxml.")
    top, bottom = (found.evaluate("element => element.getBoundingClientRect().top") for found in (begin, end))
    clip = {"x": 0, "y": top - _MARGIN, "width": _WIDTH, "height": bottom - top}
    _save(page.screenshot(full_page=True, clip=clip), "report.png")


def take_served(page: Page, address: str, text: str) -> None:
    """The served page with the best labels of a text, and the way of the first one through the label tree."""
    page.goto(address)
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Predict labels").click()
    page.locator("#labels > li").first.wait_for()
    page.get_by_text("Way through the label tree").first.click()
    _save(page.screenshot(full_page=True), "serve.png")


def _save(picture: bytes, name: str) -> None:
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(_COLOURS).save(IMAGES / name, optimize=True)


def main() -> int:
    """Take the pictures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the output folder of a run of cxml.train")
    parser.add_argument("--text", default=_TEXT, help="what is typed on the served page (default: %(default)s)")
    options = parser.parse_args()
    report = Path(options.run, PAGE_FILE)
    if FOUND is None:
        print(f"No browser was found. Install one of {', '.join(NAMES)}.", file=sys.stderr)
        return 1
    try:
        if not report.exists():
            raise DataError(
                str(report), "there is no such file", "Name a finished run; install 'cxml[plots]' before it."
            )
        with page_in_browser() as (page, _), tempfile.TemporaryDirectory() as scratch:
            page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})
            take_report(page, report)
            with served(options.run, Path(scratch, "log"), token="") as address:
                take_served(page, address, options.text)
    except CxmlError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
