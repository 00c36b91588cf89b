"""The page at / in a real browser: what people see when a shard falls silent, comes back, or sends odd data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.resources import files

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from labkit import Lab, faults
from labkit.api import Server
from tests.support.browsing import Looking, Scripted, a_browser, looking_at, result_of
from tests.support.watching import comes_true

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

CLASSIC = {"1": [[1, 10], [31, 40]], "2": [[11, 20], [41, 50]], "3": [[21, 30], [51, 60]]}
ROWS: list[tuple[int, str | None]] = [(i, f"Test {i}") for i in range(1, 61)]
SILENT = {"2": ("timeout", "no answer before the deadline")}

COMPLETE = "document.body.dataset.complete === 'true'"
INCOMPLETE = "document.body.dataset.complete === 'false'"
HEAD = "[...document.querySelectorAll('#columns th')].map(cell => cell.textContent)"
MERGED = "[...document.querySelectorAll('#merged tr')].map(row => [...row.cells].map(cell => cell.textContent))"
GAPS = "[...document.querySelectorAll('#merged tr.gap')].map(row => [row.dataset.low, row.dataset.high])"
HISTORY = "shard => [...document.querySelectorAll(`[data-shard='${shard}'] [data-was]`)].map(part => part.dataset.was)"
NOTE_FLASHES = """
window.flashes = [];
document.addEventListener("animationstart", ({ target: { dataset } }) =>
    flashes.push(`${dataset.id} ${dataset.flash}`));
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests, each with its own page."""
    async with a_browser() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def three_shards() -> AsyncIterator[Lab]:
    """Real shards, complete at the start and the end of each test."""
    async with Lab("postgres", timeout=1.0) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def scripted() -> AsyncIterator[Scripted]:
    """An access point that sends what the test tells it to."""
    async with Scripted() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def looking(browser: Browser, scripted: Scripted) -> AsyncIterator[Looking]:
    """The page of the scripted access point; asserts that the browser reports no unexpected error."""
    async with looking_at(browser, scripted.url) as open_page:
        yield open_page
        assert open_page.complaints == []


async def test_a_frozen_shard_is_a_gap_that_fills_again(browser: Browser, three_shards: Lab) -> None:
    """A frozen shard's rows become two gaps with their cause; once it is healed they return, and changes are marked."""
    lab = three_shards
    async with Server(lab.reader) as server, looking_at(browser, server.url) as looking:
        page = looking.page
        await looking.until(COMPLETE)
        assert await looking.state() == "60 rows, complete"
        assert await page.evaluate(MERGED) == [[str(i), f"Test {i}", str(lab.router.locate(i))] for i in range(1, 61)]
        await page.evaluate("window.kept = document.querySelector('[data-id=\"7\"]')")
        await page.evaluate(NOTE_FLASHES)

        async with lab.fault(2, faults.Pause()):
            await looking.until(INCOMPLETE)
            assert await looking.state() == "40 rows; IDs 11–20 and 41–50 are missing"
            await looking.until("document.querySelectorAll('#merged tr.gap').length === 2")
            assert await page.evaluate(GAPS) == [["11", "20"], ["41", "50"]]
            gaps = await looking.texts("#merged tr.gap")
            assert gaps[0] == "IDs 11–20 unknown: shard 2 timeout: no answer before the deadline"
            assert await page.get_attribute("[data-shard='2']", "data-status") == "timeout"
            assert await page.get_attribute("[data-shard='3']", "data-status") == "ok"
            assert await page.evaluate("kept.isConnected && kept.textContent") == "7Test 71"
            assert await page.evaluate("flashes") == []

        await looking.until(COMPLETE)
        await looking.until("document.querySelectorAll('#merged tr[data-id]').length === 60")
        assert await page.evaluate(HISTORY, "2") == ["ok", "timeout", "ok"]
        assert await page.evaluate(HISTORY, "1") == ["ok"]
        await looking.until("flashes.length === 20 && flashes[0] === '11 added'")

        await lab.put(12, "a new name")
        await looking.until(
            "document.querySelector('[data-id=\"12\"] [data-column=name]').textContent === 'a new name'"
        )
        await looking.until("flashes.includes('12 changed') && flashes.length === 21")
        assert looking.complaints == []


async def test_a_stopped_access_point_is_said(browser: Browser, three_shards: Lab) -> None:
    """While the access point is down the page says so and keeps its rows; it is live again when the access point is."""
    async with AsyncExitStack() as window:
        async with Server(three_shards.reader) as server:
            looking = await window.enter_async_context(looking_at(browser, server.url))
            await looking.until(COMPLETE)
        await looking.until("document.body.dataset.connection === 'lost'")
        assert await looking.page.inner_text("#connection") == "connection to the access point lost, trying again"
        assert await looking.state() == "60 rows, complete"
        async with Server(three_shards.reader, port=int(server.url.rpartition(":")[2])):
            await looking.until("document.body.dataset.connection === 'live'")
            await looking.until("document.querySelectorAll('.lane [data-was=ok]:last-child').length === 3")
            assert await looking.page.evaluate(HISTORY, "1") == ["ok", "unknown", "ok"]
            assert [complaint for complaint in looking.complaints if complaint.startswith("error")] == []


async def test_all_shards_down_is_one_gap_with_every_cause(scripted: Scripted, looking: Looking) -> None:
    """Adjacent missing ranges are one gap that gives each shard's cause, and the table has no row."""
    causes = {"1": ("unreachable", "connection refused"), **SILENT, "3": ("rejected", 'relation "data_3" is missing')}
    scripted.send(result_of(ROWS, CLASSIC, causes) | {"missing": [[1, 60]]})
    await looking.until(INCOMPLETE)
    assert await looking.state() == "0 rows; IDs 1–60 are missing"
    await looking.until("document.querySelector('#merged tr.gap')")
    assert await looking.texts("#merged tr") == [
        "IDs 1–60 unknown:\nshard 1 unreachable: connection refused\nshard 2 timeout: no answer before the deadline\n"
        'shard 3 rejected: relation "data_3" is missing'
    ]
    assert await looking.page.locator("#ids [data-missing]").count() == 6


async def test_null_is_not_the_text_null(scripted: Scripted, looking: Looking) -> None:
    """A NULL name differs from the text NULL and from an empty one, even when one turns into the other."""
    scripted.send(result_of([(1, None), (2, "NULL"), (3, "")], {"a": [[1, 3]]}))
    await looking.until(COMPLETE)
    nulls = "[...document.querySelectorAll('[data-column=name]')].map(cell => cell.hasAttribute('data-null'))"
    await looking.until(f"JSON.stringify({nulls}) === '[true,false,false]'")
    assert await looking.page.evaluate(MERGED) == [["1", "NULL", "a"], ["2", "NULL", "a"], ["3", "", "a"]]
    scripted.send(result_of([(1, "NULL"), (2, None), (3, "")], {"a": [[1, 3]]}))
    await looking.until(f"JSON.stringify({nulls}) === '[false,true,false]'")


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><h1>owned",
    "\u202e reversed",
    "two\nlines and  blanks",
    "&lt;b&gt; 'quoted' \"twice\" \\ \u2028",
    "\ud800 half a pair",
    "x" * 100_000,
]


async def test_names_are_text(scripted: Scripted, looking: Looking) -> None:
    """Names, keys and causes never become markup; names are shown as they are, very long ones truncated."""
    key = "<b onclick=alert(2)>__proto__</b>"
    shards = {key: [[1, 50]], "__proto__": [[51, 60]], "gone": [[61, 70]]}
    failed = {"gone": ("invalid", "<script>alert(3)</script>")}
    scripted.send(result_of(list(enumerate(HOSTILE, 1)), shards, failed))
    await looking.until("document.querySelectorAll('#merged tr').length === 9")
    names = await looking.page.evaluate(
        "[...document.querySelectorAll('[data-column=name]')].map(cell => cell.textContent)"
    )
    assert names[:6] == HOSTILE[:6]
    assert names[6].endswith(" half a pair")
    assert names[7] == "x" * 499 + "…"
    assert await looking.page.locator("tbody :is(script, img, h1, b[onclick])").count() == 0
    keys = await looking.page.evaluate("[...document.querySelectorAll('[data-shard]')].map(row => row.dataset.shard)")
    assert keys == [key, "__proto__", "gone"]
    assert await looking.texts("#merged tr.gap") == ["IDs 61–70 unknown: shard gone invalid: <script>alert(3)</script>"]


async def test_every_column_of_any_table(browser: Browser, scripted: Scripted) -> None:
    """Values as they are, numbers on the right, long integers exact, names and values as text; a table that changes its
    columns is drawn again.
    """
    kinds = {"order id": "int64", "<b>2</b>": "decimal128(12, 2)", "at": "timestamp[us, tz=UTC]", "10": "int64",
             "tags": "list<item: string>", "ok": "bool", "note": "string"}  # fmt: skip
    row = {"order id": 1, "<b>2</b>": "12.50", "at": "2026-11-28T12:00:00.100000Z", "10": 2**62 + 1,
           "tags": ["<i>", None], "ok": True, "note": "<script>alert(1)</script>"}  # fmt: skip
    none = {"order id": 2, **dict.fromkeys([*kinds][1:])}
    columns = [{"name": name, "type": kind} for name, kind in kinds.items()]
    result = result_of([], {"a": [[1, 9]], "b": [[11, 19]]}, {"b": SILENT["2"]})
    scripted.send(result | {"columns": columns, "rows": [row, none]})
    async with looking_at(browser, scripted.url, viewport={"width": 1280, "height": 700}) as looking:
        await looking.until("document.querySelectorAll('#merged tr').length === 3")
        assert await looking.page.evaluate(HEAD) == [*kinds, "shard"]
        assert await looking.page.evaluate(MERGED) == [
            ["1", "12.50", "2026-11-28 12:00:00.1Z", str(2**62 + 1), '["<i>",null]', "true", row["note"], "a"],
            ["2", *["NULL"] * 6, "a"],
            ["IDs 11–19 unknown: shard b timeout: no answer before the deadline"],
        ]
        right = "[...document.querySelectorAll('#merged tr:first-child > .number')].map(cell => cell.textContent)"
        assert await looking.page.evaluate(right) == ["1", "12.50", str(2**62 + 1)]
        assert await looking.page.locator("#rows :is(script, i, b:not(.gap b))").count() == 0
        assert await looking.page.evaluate("document.documentElement.scrollWidth") == 1280
        scripted.send(result | {"columns": columns[:2], "rows": [{"order id": 1, "<b>2</b>": None}]})
        await looking.until("document.querySelectorAll('#columns th').length === 3")
        assert (await looking.page.evaluate(MERGED))[0] == ["1", "NULL", "a"]
        assert looking.complaints == []


async def test_great_ids_keep_their_digits(scripted: Scripted, looking: Looking) -> None:
    """IDs beyond 2**53 are shown, ordered and compared exactly; digits in a name are not taken for an ID."""
    most = 2**53
    names = ["12345678901234567890", 'x":[1234567890123456789,"\\', "a", "b", "c", "d", "e"]
    ids = [-(2**63), 1000000000000000, most, most + 1, most + 2, 2**63 - 2, 2**63 - 1]
    shards = {"low": [[-(2**63), most + 2]], "gap": [[most + 3, 2**63 - 3]], "high": [[2**63 - 2, 2**63 - 1]]}
    rows = list(zip(ids, names, strict=True))
    scripted.send(result_of(rows, shards, {"gap": SILENT["2"]}))
    await looking.until("document.querySelectorAll('#merged tr').length === 8")
    shown = [[str(i), name, "low"] for i, name in rows[:5]]
    gap = f"IDs {most + 3}–{2**63 - 3} unknown: shard gap timeout: no answer before the deadline"
    assert await looking.page.evaluate(MERGED) == [*shown, [gap], *([str(i), name, "high"] for i, name in rows[5:])]
    assert await looking.page.evaluate(GAPS) == [[str(most + 3), str(2**63 - 3)]]
    assert f"{2**63 - 3 - most - 2:,} IDs missing" in await looking.page.inner_text("#strip-caption")

    await looking.page.evaluate(NOTE_FLASHES)
    rows[3] = (most + 1, "changed")
    scripted.send(result_of(rows, shards, {"gap": SILENT["2"]}))
    await looking.until(f"JSON.stringify(flashes) === '[\"{most + 1} changed\"]'")


async def test_a_hundred_thousand_rows(scripted: Scripted, looking: Looking) -> None:
    """The first 1,000 rows are shown and the rest counted; a gap beyond them is still shown."""
    rows: list[tuple[int, str | None]] = [(i, f"Test {i}") for i in range(1, 100_001)]
    shards = {"a": [[1, 40_000]], "b": [[40_001, 60_000]], "c": [[60_001, 100_000]]}
    scripted.send(result_of(rows, shards))
    await looking.until("document.body.dataset.rows === '100000'")
    await looking.until("document.querySelectorAll('#merged tr').length === 1001")
    assert await looking.page.inner_text("#merged tr.more") == "… 99,000 more rows"
    assert await looking.page.inner_text("#rows-caption") == "the first 1,000 of 100,000 rows"
    assert await looking.state() == "100,000 rows, complete"

    scripted.send(result_of(rows, shards, {"b": SILENT["2"]}))
    await looking.until("document.querySelector('#merged tr.gap')")
    assert (await looking.texts("#merged tr"))[1000:] == [
        "… 39,000 more rows",
        "IDs 40001–60000 unknown: shard b timeout: no answer before the deadline",
        "… 40,000 more rows",
    ]


async def test_many_ranges_and_gaps_stay_few_elements(scripted: Scripted, looking: Looking) -> None:
    """Of 1,000 gaps the first 200 are shown and the rest counted; the strip is drawn in columns."""
    ranges = [[i, i] for i in range(0, 4_000, 2)]
    shards = {"even": ranges[::2], "odd": ranges[1::2]}
    scripted.send(result_of([(low, "x") for low, _ in ranges], shards, {"odd": SILENT["2"]}))
    await looking.until("document.querySelector('#merged tr.gap')")
    assert await looking.page.locator("#merged tr.gap").count() == 200
    assert (await looking.texts("#merged tr"))[-1] == "… 800 more gaps"
    assert await looking.page.locator("#ids li").count() <= 240
    assert await looking.state() == "1,000 rows; IDs 2, 6, 10, 14, 18, 22 and 994 more are missing"


async def test_the_lane_shows_when_a_shard_fell_silent(scripted: Scripted, looking: Looking) -> None:
    """A shard is drawn as silent from the time it was asked, not from the deadline, and the lane moves on."""
    scripted.send(result_of(ROWS, CLASSIC))
    await looking.until(COMPLETE)
    width = "document.querySelector('[data-shard=\"2\"] [data-was=timeout]')?.getBoundingClientRect().width"
    lane = "document.querySelector('[data-shard=\"2\"] .lane').getBoundingClientRect().width"
    await looking.page.evaluate("read = parse, parse = text => (told = now(), read(text)), 0")
    await looking.until("shards.get('2').lane.segments[0].start + 0.5 < now()")
    scripted.send(result_of(ROWS, CLASSIC, SILENT) | {"elapsed": 0.4})
    await looking.until(INCOMPLETE)
    segments = "shards.get('2').lane.segments.map(({ start, end }) => [start, end])"
    (_, ended), (silent, _) = await looking.page.evaluate(segments)
    assert ended == silent < await looking.page.evaluate("told")
    await looking.until(f"{width} > {lane} / 300")
    assert await looking.texts("#log li span") == [
        "shard 2 timeout: no answer before the deadline",
        "this page is connected to the access point",
    ]


async def test_a_lost_stream_is_opened_again(scripted: Scripted, looking: Looking) -> None:
    """When its stream ends the page opens a new one and marks what changed in between."""
    scripted.send(result_of(ROWS, CLASSIC))
    await looking.until(COMPLETE)
    await looking.page.evaluate(NOTE_FLASHES)
    scripted.hang_up()
    await looking.until("document.body.dataset.connection === 'lost'")
    scripted.send(result_of([*ROWS[:59], (60, "new")], CLASSIC))
    await looking.until("document.body.dataset.connection === 'live' && flashes.includes('60 changed')")
    assert scripted.asked.count("/data/watch") == 2
    looking.complaints.clear()


async def test_an_access_point_that_hangs_is_found_out(browser: Browser, scripted: Scripted) -> None:
    """The page checks regularly that the access point answers, since an open stream proves nothing, and says if not."""
    async with looking_at(browser, scripted.url) as looking:
        await looking.page.clock.install()
        await looking.page.reload()
        scripted.send(result_of(ROWS, CLASSIC))
        await looking.until("document.body.dataset.connection === 'live'")
        scripted.hangs = True
        await looking.page.clock.fast_forward(5_000)
        assert await comes_true(lambda: "/healthz" in scripted.asked)
        await looking.page.clock.fast_forward(4_000)
        await looking.until("document.body.dataset.connection === 'lost'")


async def test_a_phone_shows_all_of_it(browser: Browser, scripted: Scripted) -> None:
    """At a width of 320 pixels nothing is cut off or needs sideways scrolling."""
    long = "a-name-without-any-blank-" * 10
    shards = {long: [[1, 9]], "2": [[2**62, 2**62]], "3": [[10, 20]]}
    scripted.send(result_of([(1, long), (2**62, "x")], shards, {"3": ("rejected", long)}))
    async with looking_at(browser, scripted.url, viewport={"width": 320, "height": 640}) as looking:
        await looking.until("document.querySelectorAll('#merged tr').length === 3")
        assert await looking.page.evaluate("document.documentElement.scrollWidth") == 320
        over = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 320)"
        assert await looking.page.evaluate(f"{over}.map(e => e.outerHTML)") == []
        shown = looking.page.get_by_role(
            "table", name="Shards"
        )  # shown as cards, it is still a table to screen readers
        assert await shown.get_by_role("rowheader").count() == 3
        assert await shown.get_by_role("columnheader").count() == 5


async def test_the_strip_leads_to_the_gap(scripted: Scripted, looking: Looking) -> None:
    """The range of a gap is a button that the keyboard can press to bring the gap's row into view."""
    scripted.send(result_of(ROWS, CLASSIC, SILENT))
    await looking.until("document.querySelector('#merged tr.gap')")
    button = looking.page.get_by_role("button", name="IDs 41–50, shard 2, missing")
    seen = """() => {
        const [gap, pane] = ["[data-low='41']", "#pane"].map(at => document.querySelector(at).getBoundingClientRect());
        return gap.top >= pane.top && gap.bottom <= pane.bottom;
    }"""
    assert not await looking.page.evaluate(seen)
    await button.focus()
    await looking.page.keyboard.press("Enter")
    await looking.until(seen)


async def test_without_javascript_there_is_a_link(browser: Browser, scripted: Scripted) -> None:
    """Without JavaScript the page links to the same answer as JSON."""
    async with looking_at(browser, scripted.url, java_script_enabled=False) as looking:
        link = looking.page.locator("noscript a")
        assert await link.get_attribute("href") == "data"
        assert await link.is_visible()


async def test_the_page_needs_nothing_but_its_access_point(scripted: Scripted, looking: Looking) -> None:
    """The page sends requests only to its access point, and its content policy forbids any other."""
    scripted.send(result_of(ROWS, CLASSIC))
    await looking.until(COMPLETE)
    assert set(scripted.asked) <= {"/", "/data/watch", "/healthz"}
    text = files("labkit").joinpath("api/page.html").read_text("utf-8")
    assert "default-src 'none'" in text
    assert "innerHTML" not in text
    assert text.count("http") == text.count("http-equiv") + text.count("xmlns='http://www.w3.org/2000/svg'")


async def test_the_documentation_needs_no_internet(browser: Browser, three_shards: Lab) -> None:
    """/docs shows every operation and loads without errors in a browser that can reach only 127.0.0.1."""
    async with Server(three_shards.reader) as server, looking_at(browser, f"{server.url}/docs") as looking:
        await looking.until("document.querySelectorAll('.opblock').length >= 7")
        paths = [path.replace("\u200b", "") for path in await looking.texts(".opblock-summary-path")]
        assert {"/data", "/data/count", "/data/{id}", "/data/watch", "/healthz", "/readyz", "/readyz/{shard}"} == set(
            paths
        )
        assert looking.complaints == []
